"""Numbers that papers report for these datasets, under their own protocols: never to be ranked with ours.

HitRatio@1 with 20 candidates that the released code redraws at every evaluation, Llama-2-7B, test sets of 95
(MovieLens),
Steam and 122 (LastFM) rows; invalid answers count as misses. From LLaRA (arXiv 2312.02445), its README of 2024-07, and
the tables that iLoRA (arXiv 2408.10159) compares with.
"""

_ROWS = {
    "GRU4Rec": (0.3750, 0.4168, 0.2616),
    "Caser": (0.3861, 0.4368, 0.2233),
    "SASRec": (0.3444, 0.4010, 0.2233),
    "Llama-2 zero-shot": (0.0421, 0.0135, 0.0246),
    "GPT-4": (0.2000, 0.3626, 0.3770),
    "TALLRec": (0.3895, 0.4637, 0.4180),
    "LLaRA (SASRec), paper": (0.4421, 0.4949, 0.4508),
    "LLaRA (SASRec), README of 2024-07": (0.4526, 0.5051, 0.5246),
}
_COLUMN = {"ml-100k": 0, "movielens-llara": 0, "steam": 1, "steam-llara": 1, "lastfm": 2, "lastfm-llara": 2}
_NAME = {dataset: ("MovieLens", "Steam", "LastFM")[column] for dataset, column in _COLUMN.items()}
_CTR = {"ml-1m": {"Vicuna-13B (ReLLa)": 0.8033, "SIM": 0.7992, "DIN": 0.7962, "SASRec": 0.7934}}


def published(dataset: str, protocol: str) -> dict | None:
    """``{"title", "note", "metric", "rows": [[name, value], ...]}`` for a dataset, or None."""
    if protocol == "candidates" and dataset in _COLUMN:
        rows = [[name, values[_COLUMN[dataset]]] for name, values in _ROWS.items()]
        note = (
            f"Other people's protocol: HitRatio@1 on the papers' own {_NAME[dataset]} split, 20 candidates "
            "redrawn at every "
            "evaluation, Llama-2-7B, about a hundred test rows. Not comparable with the table above: other rows, other "
            "candidates, another LLM. iLoRA's paper claims +11.4% on average over LoRA."
        )
        return {"title": f"Published for {_NAME[dataset]}", "note": note, "metric": "HitRatio@1", "rows": rows}
    if protocol == "ctr" and dataset in _CTR:
        note = "Other people's protocol: AUC as ReLLa reports it. Not comparable with the table above."
        return {
            "title": "Published for ML-1M",
            "note": note,
            "metric": "AUC",
            "rows": [list(r) for r in _CTR[dataset].items()],
        }
    return None
