"""Converters from published files to RecBole's atomic files: `python -m recbole_llm.data.convert NAME`."""

from pathlib import Path

CONVERTERS = {"lastfm": "lastfm", "lastfm-llara": "llara"}  # RecBole dataset name -> converter name


def how_to_get(dataset: str, data_path) -> str:
    """Return one sentence that says how to get a dataset's files into `data_path`."""
    converter = CONVERTERS.get(dataset)
    if converter is None:
        return f"Set data_path to the folder that holds {Path(dataset)}/{dataset}.inter"
    return (
        f"Make it with: python -m recbole_llm.data.convert {converter} --source DIR --target {data_path}"
        + (" (without --source it is downloaded)" if converter == "lastfm" else "")
        + f"; or set data_path to the folder that holds {dataset}/"
    )
