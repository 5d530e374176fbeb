"""Trains any RecBole model with RecBole's own Trainer, judged on the frozen candidate sets.

Baselines of the leaderboard and the CRM inside an LLM recommender come out of this one function, so that a SASRec row
and the SASRec that LLaRA reads are the same thing.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_model, get_trainer, init_seed

from recbole_llm import registry
from recbole_llm.compat.progress_bar import show_loss_and_speed
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.runtime import distributed


@dataclass
class Fitted:
    """A trained model with what it takes to evaluate it further.

    Attributes:
        trainer: RecBole's trainer; ``trainer.model`` holds the last epoch's weights, ``evaluate(load_best_model=True)`` loads the best.
        data: RecBole's ``(dataset, train, valid, test)``.
        seconds: wall time of the training loop alone, of all its parts where it was resumed.
    """

    trainer: Any
    data: tuple
    best_valid_score: float
    best_valid_result: dict | None
    seconds: float


def build(config):
    """``(trainer, (dataset, train, valid, test))`` for ``config``'s model, untrained."""
    init_seed(config["seed"], config["reproducibility"])
    data = prepare_data(config)
    init_seed(config["seed"], config["reproducibility"])
    sharded = registry.is_plugin_model(config["model"]) and distributed.sharded()  # its shards move when the trainer cuts them
    model = get_model(config["model"])(config, data[1]._dataset).to("cpu" if sharded else config["device"])
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE turns it on: 2-3x slower
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    if not registry.is_plugin_model(config["model"]):
        _own_file(trainer, config)
    show_loss_and_speed(trainer)
    registry.protocol(config["protocol"]).judge(trainer, config, data[0])
    return trainer, data


def _own_file(trainer, config) -> None:
    """RecBole names its file by model and second: two runs begun together would read each other's weights."""
    path = Path(trainer.saved_model_file)
    trainer.saved_model_file = str(path.with_name(f"{path.stem}-{config['dataset']}-seed{config['seed']}-{os.getpid()}.pth"))


def fit(config, saved: bool = True) -> Fitted:
    """Train ``config``'s model; early stopping and model selection read the validation rows only.

    RecLoRA's ``recipe: released`` is the exception: its validation loader holds the test rows, as in its authors' code.
    """
    trainer, data = build(config)
    start = time.perf_counter()
    score, result = trainer.fit(data[1], data[2], saved=saved, show_progress=config["show_progress"])
    earlier = getattr(trainer, "earlier_seconds", 0.0)
    return Fitted(trainer, data, score, result, earlier + time.perf_counter() - start)
