"""LLaRA: Large Language-Recommendation Assistant (Liao et al., SIGIR 2024, arXiv 2312.02445).

Section 3.2: an item is its title followed by a behaviour token, the projected item vector of a conventional
recommender. Section 3.3: a curriculum moves from text-only to hybrid prompts, p(hybrid) = step / total, one draw per
batch. The LLM is tuned by plain LoRA.

Differences from the released code: progress runs once over all epochs (theirs restarts every epoch inside worker
processes, which leaves a tenth of the batches hybrid at 5 epochs); labels hold the title and the end token only (theirs
start with a second BOS). ``recipe: released`` brings back the restarting curriculum.
"""

from recbole_llm.model.base import LLMRecommender


class LLaRA(LLMRecommender):
    """Everything is the base's but the curriculum's released variant."""

    @classmethod
    def hybrid_probability(cls, config, progress: float) -> float:
        if config["recipe"] == "released" and config["curriculum"] == "linear":
            # The released counter restarts each epoch while its total counts all of them: never above 1 / epochs.
            return (progress * config["epochs"] % 1.0) / config["epochs"]
        return super().hybrid_probability(config, progress)
