"""What a result was made of: code and weights, by files that are there."""

from pathlib import Path

import recbole_llm
from recbole_llm.results import provenance


def test_every_named_file_is_there():
    root = Path(recbole_llm.__file__).parent
    files = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    for named in (*provenance._BASELINE, *provenance._NOT_RUN):
        assert any(file.startswith(named) for file in files), named


def test_a_change_in_the_middle_of_a_large_file_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_WHOLE", 1000)
    monkeypatch.setattr(provenance, "_PART", 10)
    hashes = set()
    for number, at in enumerate([None, 0, 3_000, 5_005, 9_995]):
        content = bytearray(10_000)
        for byte in range(0 if at is None else at - at % 5, 0 if at is None else min(10_000, at + 200)):
            content[byte] = 1
        (tmp_path / "model.safetensors").write_bytes(content)
        hashes.add(provenance._file_hash(str(tmp_path / "model.safetensors"), 10_000, number))
    assert len(hashes) == 5


def test_all_that_an_llm_is_read_from_counts(tmp_path):
    (tmp_path / "original.model").mkdir()  # Llama's repositories have folders
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    seen = {provenance.weights_hash(str(tmp_path))}
    for name in ("model.safetensors", "config.json", "tokenizer.model", "merges.txt", "modeling.py"):
        (tmp_path / name).write_text("a")
        seen.add(provenance.weights_hash(str(tmp_path)))
    (tmp_path / "README.txt").write_text("a")
    assert len(seen) == 6 and provenance.weights_hash(str(tmp_path)) in seen
