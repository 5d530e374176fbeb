"""RecBole's source is changed where it is the released one, and versions other than 1.2.1 are refused."""

from importlib import metadata
from pathlib import Path

import pytest
import recbole

from recbole_llm.compat import patching


@pytest.mark.parametrize("version", ["1.2.0", "1.3.0"])
def test_other_recbole_is_refused(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda _: version)
    with pytest.raises(ImportError, match=f"supports recbole==1.2.1 alone, found {version}"):
        patching.check_version()


def test_rewrite_refuses_unexpected_source():
    class Owner:
        def method(self):
            return 1

    with pytest.raises(RuntimeError, match="holds 'return 2' 0 times, not 1.*--force-reinstall"):
        patching.rewrite(Owner, "method", ("return 2", "return 3", 1))


def test_rewritten_functions_keep_their_line_numbers():
    from recbole.data.dataset import Dataset

    code = Dataset._normalize.__code__
    assert code.co_filename.startswith(str(Path(recbole.__file__).parent))
    line = Path(code.co_filename).read_text().splitlines()[code.co_firstlineno - 1]
    assert line.strip() == "def _normalize(self):" and Dataset._normalize.__qualname__ == "Dataset._normalize"
