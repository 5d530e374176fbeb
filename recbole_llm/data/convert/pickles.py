"""Reading a pickled DataFrame without running a pickle.

The released LLaRA splits are DataFrames pickled by an old pandas. A pickle is a program: whoever wrote it chooses
what is imported and called. Here nothing is: a name in the pickle is looked up in a list of exactly those that such
a file needs, and even these are not imported but stand for inert records, which keep their arguments and state. Any
other name is refused at the moment it is named, before anything is called. The columns are then read out of the
records. (That also makes the result independent of the pandas that is installed.)
"""

import io
import pickle
from pathlib import Path

import numpy as np

ALLOWED = frozenset(
    {
        ("pandas.core.frame", "DataFrame"),
        ("pandas.core.internals.managers", "BlockManager"),
        ("pandas._libs.internals", "_unpickle_block"),
        ("pandas.core.indexes.base", "_new_Index"),
        ("pandas.core.indexes.base", "Index"),
        ("pandas.core.indexes.range", "RangeIndex"),
        ("builtins", "slice"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }
    | {
        (f"numpy.{core}.{module}", name)  # numpy 2 renamed `core`
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
    }
)


class RefusedPickle(ValueError):
    """The file is not a pickled DataFrame of integers, lists of integers and strings, and was not run."""


class _Record:
    """What a name of the pickle makes: its arguments, and the state set afterwards. Calls nothing."""

    name = ""

    def __new__(cls, *args, **kwargs):
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        self.state = state


class _RecordUnpickler(pickle.Unpickler):
    """An unpickler whose every name is an inert record class, made afresh for each file."""

    def __init__(self, file, path):
        super().__init__(file)
        self._path, self._made = path, {}

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise RefusedPickle(
                f"{self._path} names {module}.{name}, which a pickled DataFrame does not need; it was not run. "
                f"Get the file again from its publisher"
            )
        if (module, name) not in self._made:
            self._made[module, name] = type(name, (_Record,), {"name": name})
        return self._made[module, name]

    def persistent_load(self, pid):
        raise RefusedPickle(f"{self._path} refers to an object outside the file ({pid!r}); it was not run")


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise RefusedPickle(f"not a pickled DataFrame of the expected form: {what}")


def _record(value, name: str) -> _Record:
    _need(isinstance(value, _Record) and type(value).name == name, f"expected {name}, found {type(value).__name__}")
    return value


def _dtype(value) -> np.dtype:
    """int64 or object, from a dtype record with args ("i8", ...) and state (3, "<", ...)."""
    record = _record(value, "dtype")
    _need(record.args[:1] in (("i8",), ("O8",)), f"dtype {record.args[:1]}")
    if record.args[0] == "O8":
        return np.dtype(object)
    order = record.state[1] if record.state else "="
    _need(order in ("<", ">", "="), f"byte order {order!r}")
    return np.dtype("i8").newbyteorder(order)


def _array(value) -> np.ndarray:
    """An array from a `_frombuffer` record (buffer, dtype, shape, order) or a `_reconstruct` record with its state."""
    if isinstance(value, _Record) and type(value).name == "_frombuffer":
        buffer, dtype, shape, order = value.args
        _need(not _dtype(dtype).hasobject, "a buffer of objects")
        return np.frombuffer(bytes(buffer), dtype=_dtype(dtype)).reshape(shape, order=order)
    _, shape, dtype, fortran, data = _record(value, "_reconstruct").state
    order = "F" if fortran else "C"
    if not _dtype(dtype).hasobject:
        return np.frombuffer(data, dtype=_dtype(dtype)).reshape(shape, order=order)
    cells = np.empty(len(data), dtype=object)
    for i, cell in enumerate(data):  # a list of lists must not become a 2-D array
        cells[i] = cell
    return cells.reshape(shape, order=order)


def _rows_of(placement, total: int) -> list[int]:
    """Column numbers of a block: the arguments of a slice."""
    return list(range(total))[slice(*_record(placement, "slice").args)]


def _plain(column: np.ndarray) -> list:
    """Cells as int, str or list of int; anything else is refused."""
    cells = column.tolist()
    for cell in cells:
        parts = cell if isinstance(cell, list) else [] if isinstance(cell, str) else [cell]
        _need(all(isinstance(part, int) for part in parts), f"a cell of type {type(cell).__name__}")
    return cells


def read_frame(path) -> dict[str, list]:
    """Return the columns of a pickled DataFrame, name -> list of int, str or list of int.

    Raises
    ------
    RefusedPickle
        If the pickle names anything that is not in `ALLOWED`, or is damaged, or is not such a DataFrame.
    """
    path = Path(path)
    try:
        frame = _record(_RecordUnpickler(io.BytesIO(path.read_bytes()), path).load(), "DataFrame")
        blocks, axes = _record(frame.state["_mgr"], "BlockManager").args
        names = _plain(_array(_record(axes[0], "_new_Index").args[1]["data"]))
        columns: dict[str, list] = {}
        for block in blocks:
            values, placement, _ = _record(block, "_unpickle_block").args
            for row, place in zip(_array(values), _rows_of(placement, len(names)), strict=True):
                columns[names[place]] = _plain(row)
        _need(set(columns) == set(names), f"columns {names}, of which {sorted(columns)} have values")
        _need(len({len(column) for column in columns.values()}) == 1, "columns of different length")
        return columns
    except RefusedPickle as error:
        raise RefusedPickle(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle fails in any of the unpickler's or numpy's ways
        raise RefusedPickle(
            f"{path} is damaged or not a pickled DataFrame ({type(error).__name__}: {error})"
        ) from error
