"""A trainer and its steps, without its fit."""

from recbole_llm.training.step_batches import step_loader
from recbole_llm.training.trainer import LLMTrainer
from tests import workers


def trainer_of(config, data, model):
    model.config = config
    found = LLMTrainer(config, model)
    found.tensorboard = workers.NoWriter()
    found._start_schedule(len(data[1]))
    return found


def steps(data, accumulation, micro_batch=None):
    data[1].set_epoch(0)
    return next(iter(step_loader(data[1], accumulation, micro_batch=micro_batch)))


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
