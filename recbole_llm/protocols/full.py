"""`protocol: full`: rank the target in the whole catalogue (:mod:`recbole_llm.evaluation.full_ranking`).

A model that ranks by prompts re-ranks the `rerank_n` items that its CRM retrieves.
"""

from __future__ import annotations

from functools import partial

from recbole_llm.data.fingerprint import ROWS
from recbole_llm.evaluation.full_ranking import FullCollector, FullRowsDataLoader
from recbole_llm.evaluation.full_rows import full_rows
from recbole_llm.evaluation.rerank import RerankDataLoader
from recbole_llm.protocols.candidates import Ranking


class Full(Ranking):
    """The target among all items outside the user's history."""

    name = "full"
    retrieves = True
    metrics, main_metric = ("hit@10", "ndcg@10", "mrr@10", "hit@1"), "ndcg@10"
    topk = (1, 5, 10, 20)

    def mode(self, final):
        return "full"

    def ranked(self, final):
        return "the whole catalogue"

    def complete(self, final, given, model_class, chosen=()):
        super().complete(final, given, model_class, chosen)
        final["eval_args"]["mode"] = "full"

    def problems(self, final, given, model_class=None):
        problems = []
        if final.get("llm_eval") == "generate":
            problems.append("llm_eval: 'generate' names one of n_candidates; with protocol 'full' use likelihood")
        if final.get("selection") == "generation":
            problems.append("selection: 'generation' names one of n_candidates; with protocol 'full' use valid_metric")
        return problems + super().problems(final, given, model_class)

    def evaluation_loader(self, config):
        return FullRowsDataLoader

    def prompt_loader(self, phase, head):
        return None if phase == "train" or head.whole_catalogue else partial(RerankDataLoader, phase=phase)

    def judge(self, trainer, config, dataset):
        trainer.eval_collector = FullCollector(config, dataset)

    def measured_on(self, config):
        rows = full_rows(config)
        return {"count": len(rows.sets.catalogue), "sha256": rows.sha256, "rows": ROWS}

    def ranks(self, count):
        return "the whole catalogue"
