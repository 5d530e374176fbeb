"""`protocol: null`, in plain RecBole: its own models are evaluated as it does; a plugin model, which needs candidates, on those."""

from __future__ import annotations

from recbole_llm.evaluation.preparation import prepare
from recbole_llm.protocols.candidates import Candidates
from recbole_llm.registry import is_plugin_model


class Unset(Candidates):
    """Changes no setting."""

    name = None

    def complete(self, final, given, model_class, chosen=()):
        """RecBole's settings stay."""

    def problems(self, final, given, model_class=None):
        return []

    def prepare(self, config):
        return super().prepare(config) if is_plugin_model(config["model"]) else prepare(config)

    def judge(self, trainer, config, dataset):
        if is_plugin_model(config["model"]):
            super().judge(trainer, config, dataset)
