"""From published files to RecBole's atomic files: `python -m recbole_llm.data.convert NAME`, or on first use of a dataset.

`sources` knows where datasets come from and fetches them, `convert` picks the converter, `files` streams what was
published, `atomic` writes; one module per publisher.
"""

from recbole_llm.data.convert.sources import ensure_dataset, how_to_get

__all__ = ["ensure_dataset", "how_to_get"]
