"""Reading a pickled DataFrame without running a pickle.

The released LLaRA splits are DataFrames pickled by an old pandas. Unpickling a file imports and calls
what its author chose. Here nothing is imported or called: a name in the pickle is looked up in a list of exactly those that such
a file needs, and even these are not imported but stand for inert records, which keep their arguments and state. Any
other name is refused at the moment it is named, before anything is called. The columns are then read out of the
records. (That also makes the result independent of the pandas that is installed.)
"""

import io
import pickle
import re
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
        ("pandas.core.indexes.numeric", "Int64Index"),
        ("builtins", "slice"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }
    | {
        (f"numpy.{core}.{module}", name)  # numpy 2 renamed `core`
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    }
)

_NUMBERS = re.compile(r"[iu][1248]|f[248]")


class RefusedPickle(ValueError):
    """The file is not a pickled DataFrame of integers, pairs of numbers, lists of these and strings, and was not run."""


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
    """A number's type or object, from a dtype record with args ("i8", ...) and state (3, "<", ...)."""
    record = _record(value, "dtype")
    code = record.args[0] if record.args else None
    if code == "O8":
        return np.dtype(object)
    _need(isinstance(code, str) and _NUMBERS.fullmatch(code) is not None, f"dtype {code!r}")
    order = record.state[1] if record.state else "="
    _need(order in ("<", ">", "=", "|"), f"byte order {order!r}")
    return np.dtype(code).newbyteorder(order)


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
    """Column numbers of a block: the arguments of a slice, or an array of numbers."""
    if isinstance(placement, _Record) and type(placement).name == "slice":
        return list(range(total))[slice(*placement.args)]
    return _array(placement).tolist()


def _number(value):
    """An int or float, from itself or from a numpy scalar's record (dtype, bytes)."""
    if isinstance(value, _Record) and type(value).name == "scalar":
        dtype, data = value.args
        _need(not _dtype(dtype).hasobject, "a scalar object")
        value = np.frombuffer(data, dtype=_dtype(dtype)).item()
    _need(isinstance(value, (int, float)), f"a value of type {type(value).__name__}")
    return value


def _part(value):
    """An int, or a pair whose first value is one: (id, rating)."""
    if isinstance(value, tuple):
        _need(len(value) == 2, f"a tuple of {len(value)}")
        return _part(value[0]), _number(value[1])
    value = _number(value)
    _need(isinstance(value, int), "a fraction")
    return value


def _plain(column: np.ndarray) -> list:
    """Cells as str, int, pair of numbers, or list of the latter two; anything else is refused."""
    cells = column.tolist()
    return [
        cell if isinstance(cell, str) else [_part(part) for part in cell] if isinstance(cell, list) else _part(cell)
        for cell in cells
    ]


def _blocks(manager: _Record) -> tuple[list, list]:
    """(column axis, [(values, placement)]) of a block manager: made by a call, or by a state as before pandas 1.3."""
    if manager.state is None:
        blocks, axes = manager.args
        return axes[0], [_record(block, "_unpickle_block").args[:2] for block in blocks]
    state = manager.state[3]["0.14.1"]
    return state["axes"][0], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]


def read_frame(path, content: bytes | None = None) -> dict[str, list]:
    """Return the columns of a pickled DataFrame, name -> list of str, int, (int, number) or lists of the latter two.

    Args:
        path: the file, which errors name.
        content: what is read in its place, where the file is inside an archive.

    Raises:
        RefusedPickle: the pickle names anything that is not in `ALLOWED`, is damaged, or is no such DataFrame.
    """
    try:
        content = Path(path).read_bytes() if content is None else content
        frame = _record(_RecordUnpickler(io.BytesIO(content), path).load(), "DataFrame")
        manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
        axis, blocks = _blocks(_record(manager, "BlockManager"))
        names = _plain(_array(_record(axis, "_new_Index").args[1]["data"]))
        columns: dict[str, list] = {}
        for values, placement in blocks:
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
