"""What may happen to a checkpoint's files."""

import json

from recbole_llm.runtime.files import file_sha256
from recbole_llm.training import checkpoint_files


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def edited(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def reseal(folder):
    """Make an edited folder's hashes right again."""
    state = json.loads((folder / "state.json").read_text())
    del state["sha256"]
    state["files"] = {name: file_sha256(folder / name) for name in state["files"]}
    (folder / "state.json").write_text(json.dumps({**state, "sha256": checkpoint_files._record_hash(state)}))
