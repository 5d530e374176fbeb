"""From published files to RecBole's atomic files: `python -m recbole_llm.data.convert NAME`, or on first use of a dataset.

`sources` knows where datasets come from, `fetch` fetches them, `convert` picks the converter, `files` streams what was
published, `atomic` writes; one module per publisher.
"""

from recbole_llm.data.convert.fetch import ensure_dataset
from recbole_llm.data.convert.sources import how_to_get

__all__ = ["ensure_dataset", "how_to_get"]
