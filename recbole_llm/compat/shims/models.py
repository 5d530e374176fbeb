"""Errors in RecBole's models and in how it measures them, with any library versions."""

from importlib import import_module

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
