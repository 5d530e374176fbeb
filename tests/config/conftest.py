import textwrap

import pytest

from recbole_llm.config import properties as properties_module


@pytest.fixture
def properties(tmp_path, monkeypatch):
    """A properties folder of our own: a function that writes {file: YAML} over the defaults."""
    root = tmp_path / "properties"
    for folder in ("model", "dataset", "llm"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setattr(properties_module, "properties_dir", lambda: root)
    monkeypatch.setattr("sys.argv", ["test"])

    def write(files):
        for name, text in files.items():
            (root / name).write_text(textwrap.dedent(text))

    write({"overall.yaml": "protocol: candidates\nn_candidates: 20\nlayer: overall\n", "llm.yaml": "crm_epochs: 8\n"})
    return write
