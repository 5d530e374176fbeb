"""Trainable weights as the optimizer's groups."""

import torch
from torch.nn import Parameter

from recbole_llm.model.parameter_groups import parameter_groups


def test_kinds_have_their_rates_and_vectors_no_decay():
    matrix, vector = (lambda: Parameter(torch.zeros(2, 2))), (lambda: Parameter(torch.zeros(2)))
    named = {
        "llm.lora_A": matrix(), "llm.frozen": Parameter(torch.zeros(2, 2), requires_grad=False), "llm.norm.weight": matrix(),
        "user_projector.map": matrix(), "projector.bias": vector(), "router.gate": matrix(), "score.router": matrix(),
    }  # fmt: skip
    names = {id(weight): name for name, weight in named.items()}
    groups = parameter_groups(named.items(), {"adapter": 1.0, "projector": 5.0, "router": 0.5}, 0.1)
    found = [(g["name"], g["lr_scale"], g["weight_decay"], [names[id(w)] for w in g["params"]]) for g in groups]
    assert found == [
        ("adapter", 1.0, 0.1, ["llm.lora_A", "score.router"]),
        ("adapter", 1.0, 0.0, ["llm.norm.weight"]),
        ("projector", 5.0, 0.1, ["user_projector.map"]),
        ("projector", 5.0, 0.0, ["projector.bias"]),
        ("router", 0.5, 0.1, ["router.gate"]),
    ]
