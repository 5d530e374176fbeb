"""The trainer of a model that answers Yes or No: `LLMTrainer`, evaluated on labelled rows under `protocol: ctr`."""

from recbole_llm.data.labelled import use_labelled_rows
from recbole_llm.trainer import LLMTrainer


class ClickTrainer(LLMTrainer):
    """Ranks candidates under `protocol: candidates`; under `ctr` gives each labelled row a probability."""

    def __init__(self, config, model):
        super().__init__(config, model)
        if config["protocol"] == "ctr":
            use_labelled_rows(self, config)
