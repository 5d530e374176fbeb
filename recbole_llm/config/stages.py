"""Training in named stages: which weights move, and whether prompts hold behaviour tokens, over shares of the steps.

    stages:
      - {name: text, until: 0.5, trains: [adapter], prompts: text}
      - {name: slots, until: 1.0, trains: [projector]}

Weights are selected, and training ends early, by validations of the last stage: before it, prompts hold what nothing has trained.
"""

from recbole_llm.config.values import ConfigError

PARTS = ("adapter", "projector", "router")
PROMPTS = ("text", "hybrid")


def stage_at(stages: list[dict], progress: float) -> dict:
    """The stage of training at ``progress`` in [0, 1]."""
    return next((stage for stage in stages if progress < stage["until"]), stages[-1])


def in_last_stage(stages: list[dict] | None, progress: float) -> bool:
    """Whether ``progress`` in [0, 1] belongs to the last stage, or to training without stages."""
    return not stages or stage_at(stages, progress) is stages[-1]


def starts(stages: list[dict]) -> list[float]:
    """Where each stage begins, as a share of the steps."""
    return [0.0, *(stage["until"] for stage in stages[:-1])]


def check_parts(config, parts: set[str]) -> None:
    """Refuse a stage in which no weight of a model moves.

    Args:
        config: its settings.
        parts: of `PARTS`, those that the model has weights of.

    Raises:
        ConfigError: names the stages.
    """
    if config["stages"] and (idle := _idle(config, parts, slots=True)):
        raise ConfigError([f"stages: {', '.join(idle)}: this model has weights of {', '.join(sorted(parts))} alone, and none of those would "
                           "move; train the adapter there too, or leave the stage out"])  # fmt: skip


def stage_problems(final: dict, slots: bool) -> list[str]:
    """Lines for stages in which no weight of any model would move; values may still be of a wrong type.

    Args:
        final: the settings.
        slots: whether the model's prompts can have slots.
    """
    if not stages_hold(final.get("stages")) or not (idle := _idle(final, PARTS, slots)):
        return []
    remedy = "train the adapter there too" + (", or show slots (prompts: hybrid, behaviour_tokens)" if slots else "")
    return [f"stages: {', '.join(idle)}: no weight would move, for a projector learns from slots that it fills, and a router from an "
            f"adapter that an earlier stage has trained; {remedy}"]  # fmt: skip


def _idle(settings, parts, slots: bool) -> list[str]:
    """Names of the stages that move none of `parts`. LoRA's B is zero until the adapter is trained, and so is the router's gradient."""
    slots = slots and (settings["behaviour_tokens"] != "none" or settings["user_token"])
    one = "num_experts" in settings and settings["num_experts"] == 1  # a gate over one expert is 1 whatever the router says
    idle, tuned = [], False
    for stage in settings["stages"]:
        moves = {"adapter": True, "projector": slots and stage.get("prompts") != "text", "router": tuned and not one}
        if not any(moves[part] for part in stage["trains"] if part in parts):
            idle.append(f"{stage['name']} (trains {', '.join(stage['trains'])})")
        tuned |= "adapter" in stage["trains"]
    return idle


def stages_hold(stages) -> bool:
    """Whether a value is a list of stages as above, in order, the last until 1."""
    if not isinstance(stages, list) or not stages:
        return False
    ends = [0.0]
    for stage in stages:
        if not isinstance(stage, dict) or not {"name", "until", "trains"} <= stage.keys() <= {"name", "until", "trains", "prompts"}:
            return False
        ends.append(stage["until"])
        trains = stage["trains"]
        if not isinstance(trains, list) or not trains or not all(part in PARTS for part in trains) or stage.get("prompts", "hybrid") not in PROMPTS:
            return False
    return all(type(end) in (int, float) for end in ends) and ends == sorted(set(ends)) and ends[-1] == 1
