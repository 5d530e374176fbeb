"""What a result was made of: the code that counts for it is named by files that are there."""

from pathlib import Path

import recbole_llm
from recbole_llm.results import provenance


def test_every_named_file_is_there():
    root = Path(recbole_llm.__file__).parent
    files = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    for named in (*provenance._BASELINE, *provenance._NOT_RUN):
        assert any(file.startswith(named) for file in files), named
