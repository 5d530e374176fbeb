"""LLaRA: Large Language-Recommendation Assistant (Liao et al., SIGIR 2024, arXiv 2312.02445).

Section 3.2: an item is its title followed by a behaviour token, the projected item vector of a conventional
recommender. Section 3.3: a curriculum moves from text-only to hybrid prompts, p(hybrid) = step / total, one draw per
batch. The LLM is tuned by plain LoRA.

Differences from the released code: progress runs once over all epochs (theirs restarts every epoch inside worker
processes, which leaves a tenth of the batches hybrid at 5 epochs); labels hold the title and the end token only (theirs
start with a second BOS). ``recipe: released`` brings back the restarting curriculum, that label, templates that speak of
10 candidates, the article that lands on "A American in Parisn", and training negatives that exclude the shown history
alone. Its negatives redrawn at every evaluation stay out: every row of a leaderboard ranks the same frozen candidates.
"""

from recbole_llm.model.base import LLMRecommender

RELEASED_TEMPLATES = [
    "This user has {verbed} these {items}:{history}. Which one of these 10 {items} will this user {verb} next?{candidates}."
    " Answer with one {item}:",
    "{items} that a user has {verbed}, oldest first:{history}. Choose the {item} to {verb} next from these 10 {items}:"
    "{candidates}. The next {item} is:",
    "The history of a user, {items} in the order {verbed}:{history}. From the 10 {items} that follow, recommend the {item} to"
    " {verb} next:{candidates}. The recommended {item} is:",
]


class LLaRA(LLMRecommender):
    """Everything is the base's but the released variant."""

    @classmethod
    def released_settings(cls, settings):
        return {
            "prompt_templates": RELEASED_TEMPLATES, "answer_bos": True, "train_negatives": "recent",
            "move_article": "released" if settings["move_article"] else False,
        }  # fmt: skip

    @classmethod
    def hybrid_probability(cls, config, progress: float) -> float:
        if config["recipe"] == "released" and config["curriculum"] == "linear" and not config["stages"]:
            # The released counter restarts each epoch while its total counts all of them: never above 1 / epochs.
            return (progress * config["epochs"] % 1.0) / config["epochs"]
        return super().hybrid_probability(config, progress)
