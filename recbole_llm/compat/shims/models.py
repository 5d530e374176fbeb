"""Errors in RecBole's models and in how it measures them, with any library versions."""

from importlib import import_module
from logging import getLogger

from recbole_llm.compat.patching import rebind, rewrite


def collector_cpu():
    """collector.py:227: `.cpu()` on every collected value.

    Cause: the number of items and the item counts are an int and a Counter. Effect without: ItemCoverage, GiniIndex,
    ShannonEntropy, AveragePopularity and TailPercentage raise AttributeError with any library version.
    """
    from recbole.evaluator import Collector

    line = "self.data_struct._data_dict[key] = self.data_struct._data_dict[key].cpu()"
    rewrite(Collector, "get_data_struct", (line, f'if hasattr(self.data_struct._data_dict[key], "cpu"): {line}', 1))


def pop_counts():
    """pop.py:47: `self.item_cnt[item, :] = self.item_cnt[item, :] + 1`.

    Cause: an index that occurs twice in an assignment counts once. Effect without, on any stack: Pop ranks items by the
    number of batches that hold them; with 2,048 rows a batch popular items tie, and the Pop row of a table is too low.
    """
    from recbole.model.general_recommender import Pop

    line = "self.item_cnt[item, :] = self.item_cnt[item, :] + 1"
    rewrite(Pop, "calculate_loss", (line, "self.item_cnt.index_add_(0, item, torch.ones_like(item)[:, None])", 1))


def case_studies():
    """case_study.py:48: of a sequential model the rows of `uid_series` are looked up, and users who have none are passed over.

    Cause: nobody counts them. Effect without, on any stack: the scores "for each user" are fewer than the users, and all that follow
    are taken for those of others. Where a split gives a user several rows, there are as many lines, which is told.
    """
    import torch  # heavy, and not needed to say that RecBole is missing

    studies = import_module("recbole.utils.case_study")
    scores_of, topk_of = studies.full_sort_scores, studies.full_sort_topk

    def full_sort_scores(uid_series, model, test_data, device=None):
        dataset, users = test_data.dataset, [int(user) for user in uid_series]
        if test_data.is_sequential:
            numbers, counts = dataset.inter_feat[dataset.uid_field].unique(return_counts=True)
            rows = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            if missing := [user for user in users if user not in rows]:
                names = dataset.field2id_token[dataset.uid_field]
                shown = ", ".join(repr(str(names[user])) if 0 < user < len(names) else str(user) for user in missing[:5])
                raise ValueError(f"uid_series: {len(missing)} of {len(users)} users have no row in the split of test_data, first {shown}; "
                                 "leave them out, or give their histories to full_sort_predict")  # fmt: skip
            if (lines := sum(rows[user] for user in users)) > len(users):
                getLogger().warning(f"full_sort_scores: the {len(users)} users have {lines} rows, and the scores as many lines")
        return scores_of(torch.as_tensor(users), model, test_data, device)

    def full_sort_topk(uid_series, model, test_data, k, device=None):
        if not 1 <= k < test_data.dataset.item_num:
            raise ValueError(f"k={k}: {test_data.dataset.dataset_name} has {test_data.dataset.item_num - 1} items; k is between 1 and that")
        return topk_of(uid_series, model, test_data, k, device)

    rebind(scores_of, full_sort_scores)
    rebind(topk_of, full_sort_topk)


def flops():
    """utils.py:269 through quick_start.py:141: `get_flops` deep-copies the model and runs it on one raw row.

    Cause: written for small models. Effect without: an LLM is held twice in memory, and predicts from a row without a
    prompt. Plugin models are not counted; RecBole's own are, as before.
    """
    utils = import_module("recbole.utils.utils")
    original = utils.get_flops

    def get_flops(model, dataset, device, logger, transform, verbose=False):
        from recbole_llm.registry import is_plugin_model

        if is_plugin_model(type(model).__name__):
            logger.info("FLOPs are not counted for LLM models")
            return 0
        return original(model, dataset, device, logger, transform, verbose)

    rebind(original, get_flops)
