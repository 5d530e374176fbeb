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
