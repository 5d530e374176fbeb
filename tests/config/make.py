"""A configuration, of SASRec on ml-100k where nothing else is said."""

from recbole_llm.config.loader import LLMConfig


def make(model="SASRec", dataset="ml-100k", **settings):
    return LLMConfig(model, dataset, **settings)
