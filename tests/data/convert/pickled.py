"""Pickled DataFrames as an old pandas writes them: the opcodes of the released files, without importing what they name."""

import io
import pickle
import struct


class Call:
    """An object that pickles as function(*args), with a state set afterwards."""

    def __init__(self, function, args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)


class Pickler(pickle._Pickler):
    """The pure-Python pickler, so that names can be written without importing what they name."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, tuple) and len(obj) == 3 and obj[0] == "GLOBAL":
            self.write(pickle.GLOBAL + f"{obj[1]}\n{obj[2]}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.parts[0])
            self.save(obj.parts[1])
            self.write(pickle.REDUCE)
            if len(obj.parts) == 3:
                self.save(obj.parts[2])
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def name(module, attribute):
    return ("GLOBAL", module, attribute)


def old_frame(rows, core="core") -> bytes:
    """A frame `seq, len_seq, next` in the layout of the released files: an object block and an int64 block."""
    ndarray, dtype = name("numpy", "ndarray"), name("numpy", "dtype")
    objects = Call(dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    integers = Call(dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 0))

    def object_array(cells, shape):
        made = (ndarray, (0,), b"b")
        return Call(name(f"numpy.{core}.multiarray", "_reconstruct"), made, (1, shape, objects, False, cells))

    numbers = b"".join(struct.pack("<q", row[column]) for column in (1, 2) for row in rows)
    buffer = Call(name(f"numpy.{core}.numeric", "_frombuffer"), (numbers, integers, (2, len(rows)), "C"))
    block = name("pandas._libs.internals", "_unpickle_block")
    cut = name("builtins", "slice")
    blocks = (
        Call(block, (object_array([row[0] for row in rows], (1, len(rows))), Call(cut, (0, 1, 1)), 2)),
        Call(block, (buffer, Call(cut, (1, 3, 1)), 2)),
    )
    new_index, index = name("pandas.core.indexes.base", "_new_Index"), name("pandas.core.indexes.base", "Index")
    columns = Call(new_index, (index, {"data": object_array(["seq", "len_seq", "next"], (3,)), "name": None}))
    span = {"name": None, "start": 0, "stop": len(rows), "step": 1}
    axes = [columns, Call(new_index, (name("pandas.core.indexes.range", "RangeIndex"), span))]
    manager = Call(name("pandas.core.internals.managers", "BlockManager"), (blocks, axes))
    state = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}, "_flags": {}}
    return dump(Call(name("pandas.core.frame", "DataFrame"), (), state))


def dump(obj) -> bytes:
    out = io.BytesIO()
    Pickler(out, 4).dump(obj)
    return out.getvalue()


def dtype_of(code, order="<"):
    return Call(name("numpy", "dtype"), (code, False, True), (3, order, None, None, None, -1, -1, 0))


def scalar(value, code="i8", core="core"):
    """A numpy integer."""
    return Call(name(f"numpy.{core}.multiarray", "scalar"), (dtype_of(code), struct.pack({"i8": "<q", "f8": "<d"}[code], value)))


def frame_of(columns: dict, before_13=False) -> bytes:
    """A frame of object columns; `before_13`: with the block manager's state of pandas before 1.3, rows picked by a filter."""
    objects = dtype_of("O8", "|")
    n_rows = len(next(iter(columns.values())))

    def array(cells, shape, dtype=objects):
        made = (name("numpy", "ndarray"), (0,), b"b")
        return Call(name("numpy.core.multiarray", "_reconstruct"), made, (1, shape, dtype, False, cells))

    index, new_index = name("pandas.core.indexes.base", "Index"), name("pandas.core.indexes.base", "_new_Index")
    axis = Call(new_index, (index, {"data": array(list(columns), (len(columns),)), "name": None}))
    values = array([cell for column in columns.values() for cell in column], (len(columns), n_rows))
    place = array(struct.pack(f"<{len(columns)}q", *range(len(columns))), (len(columns),), dtype_of("i8"))
    manager = name("pandas.core.internals.managers", "BlockManager")
    numbers = array(struct.pack(f"<{n_rows}q", *range(7, 7 + n_rows)), (n_rows,), dtype_of("i8"))
    rows = Call(new_index, (name("pandas.core.indexes.numeric", "Int64Index"), {"data": numbers, "name": None}))
    if before_13:
        state = {"0.14.1": {"axes": [axis, rows], "blocks": [{"values": values, "mgr_locs": place}]}}
        made, key = Call(manager, (), ([axis, rows], [values], [axis], state)), "_data"
    else:
        block = Call(name("pandas._libs.internals", "_unpickle_block"), (values, place, 2))
        made, key = Call(manager, ((block,), [axis, rows])), "_mgr"
    return dump(Call(name("pandas.core.frame", "DataFrame"), (), {key: made, "_typ": "dataframe", "_metadata": []}))
