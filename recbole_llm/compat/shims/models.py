"""Errors in RecBole's models and in how it measures them, with any library versions."""

from importlib import import_module
from logging import getLogger
from numbers import Integral, Number

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
    are taken for those of others. Where a split gives a user several rows, there are as many lines, which is told. Of LLM models a
    row's whole history is hidden, as evaluation does, and not the part that MAX_ITEM_LIST_LENGTH leaves; a k above what is left to
    recommend is refused, where RecBole gives the history and the padding item.
    """
    import torch  # heavy, and not needed to say that RecBole is missing

    studies = import_module("recbole.utils.case_study")
    scores_of, topk_of = studies.full_sort_scores, studies.full_sort_topk

    def full_sort_scores(uid_series, model, test_data, device=None):
        users = _users(uid_series, test_data.dataset)
        if not test_data.is_sequential:
            return scores_of(torch.as_tensor(users), model, test_data, device)
        _check_rows(users, test_data.dataset)
        if not hasattr(model, "by_hand"):
            return scores_of(torch.as_tensor(users), model, test_data, device)
        rows = test_data.dataset.inter_feat
        _, index = (rows[test_data.dataset.uid_field] == torch.as_tensor(users)[:, None]).nonzero(as_tuple=True)
        lines = test_data.dataset[index]
        return model.eval().by_hand.rank_catalogue(model, lines, model.by_hand.history_in_data(lines)).to(device or "cpu")

    def full_sort_topk(uid_series, model, test_data, k, device=None):
        items = test_data.dataset.item_num - 1
        if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= items:
            raise ValueError(f"k={k!r}: {test_data.dataset.dataset_name} has {items} items; k is a whole number between 1 and that")
        scores = full_sort_scores(uid_series, model, test_data, device)
        if (left := int(scores.isfinite().sum(1).min())) < k:
            raise ValueError(f"k={k}: a user's history leaves {left} of the {items} items to recommend; lower k")
        return torch.topk(scores, k)

    rebind(scores_of, full_sort_scores)
    rebind(topk_of, full_sort_topk)


def _users(uid_series, dataset) -> list[int]:
    """The internal user ids of a case study.

    Raises:
        ValueError: there is none, or one is no whole number.
    """
    given = uid_series.tolist() if hasattr(uid_series, "tolist") else uid_series
    given = [given] if isinstance(given, Number | str) else list(given)
    if not given:
        raise ValueError("uid_series is empty: give one internal user id at least")
    if odd := [user for user in given if isinstance(user, str) or int(user) != user]:
        raise ValueError(f"uid_series holds {odd[0]!r}, and internal user ids are wanted: dataset.token2id({dataset.uid_field!r}, [...]) gives them")
    return [int(user) for user in given]


def _check_rows(users: list[int], dataset) -> None:
    """Refuse users without a row in the split, and tell where one has several."""
    numbers, counts = dataset.inter_feat[dataset.uid_field].unique(return_counts=True)
    rows = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    if missing := [user for user in users if user not in rows]:
        names = dataset.field2id_token[dataset.uid_field]
        shown = ", ".join(repr(str(names[user])) if 0 < user < len(names) else str(user) for user in missing[:5])
        raise ValueError(f"uid_series: {len(missing)} of {len(users)} users have no row in the split of test_data, first {shown}; "
                         "leave them out, or give their histories to full_sort_predict")  # fmt: skip
    if (lines := sum(rows[user] for user in users)) > len(users):
        getLogger().warning(f"full_sort_scores: the {len(users)} users have {lines} rows, and the scores as many lines")


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
