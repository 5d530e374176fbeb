"""Makes RecBole find the plugin's models by name, in the places where it looks them up, and the plugin's metric and log writer.

RecBole looks a model's trainer and dataset up as attributes `<Name>Trainer` of `recbole.trainer` and `<Name>Dataset` of
`recbole.data.dataset`, and its dataloader in a table inside `recbole.data.utils.get_dataloader`.
"""

import importlib

from recbole.evaluator import register as metrics
from recbole.trainer import trainer as recbole_trainer

from recbole_llm import registry
from recbole_llm.compat.patching import rebind
from recbole_llm.evaluation.click_metrics import ACC
from recbole_llm.training.log import tensorboard_writer


def install():
    """Hook RecBole's look-ups; called once by `import recbole_llm`."""
    registry.register_own()
    _serve("recbole.trainer", "Trainer", lambda name: registry.resolve(registry.entry(name).trainer))
    _serve("recbole.data.dataset", "Dataset", registry.dataset_class)
    original = importlib.import_module("recbole.data.utils").get_dataloader

    def get_dataloader(config, phase):
        if registry.is_plugin_model(config["model"]):
            loader = registry.resolve(registry.entry(config["model"]).dataloader)
            return loader(config, "test" if phase == "evaluation" else phase)
        return original(config, phase)

    get_dataloader.__doc__ = original.__doc__
    rebind(original, get_dataloader)
    recbole_trainer.get_tensorboard = tensorboard_writer  # RecBole's Trainer asks for a writer in every process
    metrics.metrics_dict["acc"] = ACC
    metrics.metric_information["acc"] = ACC.metric_need
    metrics.metric_types["acc"] = ACC.metric_type


def _serve(module_name, suffix, find):
    """Let `module.<Name><suffix>` be `find(<Name>)` of a registered model."""
    module = importlib.import_module(module_name)

    def __getattr__(attribute):
        name = attribute.removesuffix(suffix)
        if name != attribute and registry.is_plugin_model(name):
            return find(name)
        raise AttributeError(f"module {module_name!r} has no attribute {attribute!r}")

    module.__getattr__ = __getattr__
