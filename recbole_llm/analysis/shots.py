"""shots: how many training rows does the LLM need? (RecLoRA's Few2Many, section 4.3)

    python -m recbole_llm.analysis shots --dataset=ml-1m --recipe=paper --values=1000,10000,70000 [--model=RecLoRA,...] [--seeds=3]

Trains each model for each sample size (counts, shares such as 0.1, or null for all rows), the recommender once, on every row; what
it gives alone is a dashed line. Cost: models x sizes x seeds trainings, as
long as their samples.
"""

from __future__ import annotations

from recbole.utils import get_model

from recbole_llm import fit, registry
from recbole_llm.analysis.common import Case, Outcome, Request, as_values
from recbole_llm.analysis.report import Report
from recbole_llm.analysis.sweep import swept
from recbole_llm.config.values import ConfigError
from recbole_llm.crm.settings import crm_config
from recbole_llm.crm.training import load_or_train, with_vectors
from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.evaluation.labelled_rows import calibrate
from recbole_llm.evaluation.preparation import prepare_data

MODELS = ["RecLoRA"]
OPTIONS = {"values": None}


def run(request: Request, values) -> Report:
    """The report: a curve for each model over the sample size, on a log axis."""
    if values is None:
        raise ConfigError(["shots: give the sample sizes, e.g. --values=250,1000,4000 (counts, shares such as 0.1, or null)"])
    sizes, cases = as_values(values, "values"), []
    total = train_rows(request.config(Case(request.models[0], request.models[0]), request.seeds[0]))
    for model in request.models:
        counts = [count(size, total) for size in sizes]
        if len(set(counts)) < len(counts):
            raise ConfigError([f"values: {sizes} are {counts} rows, one number twice; give each once"])
        cases += [Case(f"{model}@n={n}", model, {"train_sample_size": size}, n) for size, n in zip(sizes, counts, strict=True)]
    return swept("shots", request, cases, "training rows seen by the LLM", log=True, lines=lambda found: alone(request, found))


def count(size, total: int) -> int:
    """Rows that a ``train_sample_size`` asks for.

    Raises:
        ConfigError: it is no size, or asks for more rows than there are.
    """
    if not (size is None or type(size) is int or (type(size) is float and 0 < size < 1)):
        raise ConfigError([f"values: {size!r} is no count, share between 0 and 1, or null"])
    found = total if size is None else round(size * total) if isinstance(size, float) else size
    if not 1 <= found <= total:
        raise ConfigError([f"values: {size} asks for {found} of {total} training rows; use sizes from 1 to {total}"])
    return found


def train_rows(config) -> int:
    """How many training rows a dataset has."""
    return len(labelled_rows(config).numbers["train"]) if registry.protocol(config["protocol"]).labelled else len(prepare_data(config)[1].dataset)


def alone(request: Request, outcome: Outcome) -> dict[str, float]:
    """{recommender: the main metric on the same test rows} of every recommender that the models read, at the first seed."""
    found = {}
    for model in request.models:
        config = request.config(Case(model, model), request.seeds[0])
        if not get_model(model).needs_crm(config):
            continue
        dataset = prepare_data(config)[1]._dataset
        own = with_vectors(crm_config(config), config, dataset)
        own["test_sample_size"] = config["test_sample_size"]
        trainer, data = fit.build(own)
        trainer.model.load_state_dict(load_or_train(config, dataset).model.state_dict())
        if registry.protocol(own["protocol"]).labelled:
            calibrate(trainer, data[2], own, False)
        result = trainer.evaluate(data[3], load_best_model=False)
        found[own["model"]] = {name.lower(): float(value) for name, value in result.items()}[outcome.metric]
    return found
