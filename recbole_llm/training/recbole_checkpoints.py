"""RecBole checkpoints as plain data: tensors, numbers, strings and containers of them.

RecBole pickles its Config, an embedding module (DIN) and numpy or scipy matrices (ItemKNN, EASE) into a `.pth`, and
opening a pickle runs whatever code it names. Here the config becomes a dict of values, arrays and sparse matrices
become marked tensors, and every file is opened with `weights_only=True`, which refuses anything else before it runs.
"""

import pickle

import numpy as np
import torch
from scipy import sparse

from recbole_llm.runtime.files import whole_file

MARK = "__recbole_llm__"
WHY = "a pickle runs the code it names when it is opened"


def save_plain(state, file):
    """Write RecBole's checkpoint dict ``state`` to ``file``, whole or not at all.

    Raises:
        TypeError: an entry is not plain data (tensor, array, sparse matrix, container, number, string); it is named.
    """
    from recbole_llm.config.values import plain_values

    weights = {tensor.data_ptr() for tensor in _tensors(state["state_dict"])}
    other = {name: value for name, value in (state["other_parameter"] or {}).items() if not _held(value, weights)}
    plain = {**state, "config": plain_values(state["config"]), "other_parameter": other}
    with whole_file(file) as aside:
        torch.save(encode(plain), aside)


def load_plain(file, map_location=None):
    """Read what :func:`save_plain` wrote; "config" stays a dict of plain values.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is damaged, or holds Python objects (nothing in it has run).
    """
    try:
        state = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds Python objects, or is no checkpoint; it was not opened, since {WHY}. Checkpoints written "
            f"with recbole_llm imported hold plain data: train the model again. ({str(error).splitlines()[0]})"
        ) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged and cannot be read: {error}. Train the model again.") from error
    if not isinstance(state, dict) or not isinstance(state.get("config"), dict) or "state_dict" not in state:
        raise ValueError(f"{file} is not a checkpoint of recbole_llm: 'config' and 'state_dict' are missing")
    return decode(state)


def refuse_pickle(file):
    """Stand in for `pickle.load`: always raises ValueError with the remedy."""
    raise ValueError(f"{file} is a pickled dataset and is not opened, since {WHY}. Move it away or set checkpoint_dir.")


def refuse_saving(*_):
    """Stand in for RecBole's functions that pickle datasets and dataloaders: always raises ValueError."""
    raise ValueError(f"save_dataset and save_dataloaders write pickles, which are never read again, since {WHY}")


def encode(value, where="checkpoint"):
    """``value`` with arrays, sparse matrices and sets replaced by marked dicts of tensors and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        return value.detach()
    if value is None or isinstance(value, (bool, int, float, str, torch.device, torch.dtype)):
        return value
    if sparse.issparse(value):  # before dict, which dok_matrix is
        return _encode_sparse(value)
    if isinstance(value, dict):
        if MARK in value:
            raise TypeError(f"{where} uses the reserved key {MARK!r}")
        return {encode(key, where): encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (set, frozenset)):
        return {MARK: "set", "items": [encode(item, where) for item in value]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {MARK: "array", "tensor": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return {MARK: "strings", "dtype": value.dtype.str, "items": value.tolist()}
    raise TypeError(f"{where} is a {type(value).__name__}, which a plain checkpoint cannot hold: use tensors or arrays")


def decode(value):
    """Undo `encode`; a set comes back as a set, a matrix in its format, on the CPU."""
    if isinstance(value, (list, tuple)):
        items = [decode(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    if kind == "set":
        return set(decode(value["items"]))
    if kind == "array":
        return value["tensor"].cpu().numpy()
    if kind == "strings":
        return np.array(value["items"], dtype=value["dtype"])
    if kind == "sparse":
        parts = tuple(value[name].cpu().numpy() for name in ("data", "indices", "indptr"))
        csr = sparse.csr_matrix if value["matrix"] else sparse.csr_array
        return csr(parts, shape=tuple(value["shape"])).asformat(value["format"])
    raise ValueError(f"unknown entry {kind!r}: the checkpoint was written by a newer recbole_llm")


def to_device(value, device):
    """Move every tensor inside containers to `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _encode_sparse(matrix):
    """Any scipy matrix or array as the three tensors of its CSR form, with its own format's name."""
    csr = matrix.tocsr()
    parts = {name: torch.from_numpy(np.ascontiguousarray(getattr(csr, name))) for name in ("data", "indices", "indptr")}
    shape = [int(size) for size in matrix.shape]
    return {MARK: "sparse", "format": matrix.format, "matrix": sparse.isspmatrix(matrix), "shape": shape, **parts}


def _held(value, weights):
    """Whether `value` is a module (DIN's embedding layer) whose weights the state dict holds already."""
    return isinstance(value, torch.nn.Module) and all(
        tensor.data_ptr() in weights for tensor in _tensors(value.state_dict())
    )


def _tensors(state):
    """The tensors of a state dict (a decision tree's is a file name)."""
    return [item for item in state.values() if isinstance(item, torch.Tensor)] if isinstance(state, dict) else []
