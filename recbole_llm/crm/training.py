"""Finds the CRM of a configuration: given as ``crm_path``, kept from an earlier run, or trained now.

It is trained by RecBole's own Trainer on the full training split (RecLoRA's also on the LLM's sample alone, ``crm_rows``)
and kept under a hash of everything that shaped it.
"""

from __future__ import annotations

import json
import time
from logging import getLogger
from pathlib import Path

from recbole.utils import get_model, set_color

from recbole_llm import fit
from recbole_llm.config.loader import LLMConfig
from recbole_llm.crm import store
from recbole_llm.crm.frozen import CRM
from recbole_llm.crm.settings import crm_config, crm_hash, learns_relevant, split_differences
from recbole_llm.data.click import retriever, splits
from recbole_llm.data.fingerprint import split_hash
from recbole_llm.runtime import distributed


def load_or_train(config, dataset) -> CRM:
    """The frozen CRM for ``config``: from ``crm_path``, from the cache, or trained now.

    Args:
        config: the LLM recommender's config.
        dataset: its dataset; internal item ids must be those the CRM was trained with.

    Raises:
        ValueError: the CRM's items are not the dataset's, in number or order, or it learned from another split.
        FileNotFoundError: ``crm_path`` does not exist.
    """
    own = crm_config(config)
    _check_same_rows(own, config)
    if config["crm_path"]:
        path = Path(config["crm_path"])
        if not path.is_file():
            raise FileNotFoundError(f"crm_path={str(path)!r} does not exist; give a .safetensors file of this package, "
                                    "a .pth that RecBole wrote with recbole_llm imported, or leave crm_path out to train "
                                    "the CRM")  # fmt: skip
        if path.suffix == ".pth":
            return store.from_recbole_checkpoint(path, own, dataset)
        try:
            return store.read(path, own, dataset)
        except store.Damaged as error:
            raise ValueError(f"crm_path={error}; give a file that was written for these settings, or leave crm_path out "
                             "to train the CRM") from error  # fmt: skip
    with distributed.main_first():  # the others then read what it wrote
        crm = _cached_or_trained(with_vectors(own, config, dataset), dataset, getLogger())
    if len(set(distributed.gather(crm.sha256))) > 1:
        raise ValueError("the processes hold different CRMs: checkpoint_dir must be one folder that all machines see")
    return crm


def with_vectors(own, config, dataset) -> LLMConfig:
    """The CRM's configuration ``own``, which where ``crm_history: relevant`` says where the vectors of the dataset's titles are."""
    if learns_relevant(config):
        own[splits.VECTORS] = retriever.keep_vectors(config, dataset)
    return own


def _check_same_rows(own, config) -> None:
    """The CRM learns from the training rows of the LLM recommender's split, never from its test rows."""
    if split_hash(own) != split_hash(config):
        differ = split_differences(own, config)
        raise ValueError(f"crm_config ({own['model']}) makes other rows than the LLM recommender's ({'; '.join(differ)}); "
                         "leave these keys out of crm_config")  # fmt: skip


def _cached_or_trained(own: LLMConfig, dataset, logger) -> CRM:
    path = Path(own["checkpoint_dir"]) / "crm" / f"{own['dataset']}-{own['model']}-{crm_hash(own)[:16]}.safetensors"
    if path.is_file():
        try:
            crm = store.read(path, own, dataset, checked=True)
            logger.info(set_color("CRM", "pink") + f": {crm.name} read from {path}")
            return crm
        except store.Damaged as error:
            logger.warning(f"{error}; the CRM is trained again")
    logger.info(set_color("CRM", "pink") + f": training {own['model']} on the full training split")
    CRM(get_model(own["model"])(own, dataset).to(own["device"]), "")  # refuses a model that cannot serve, before it is trained
    start = time.perf_counter()
    fitted = fit.fit(own)
    fitted.trainer.evaluate(fitted.data[2], load_best_model=True)  # puts the best epoch's weights into the model
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write(path, fitted)
    took = {"seconds": round(time.perf_counter() - start, 2)}
    path.with_suffix(".json").write_text(json.dumps(took) + "\n", encoding="utf-8")  # apart: weights alone make the hash
    return store.read(path, own, dataset)
