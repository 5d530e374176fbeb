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


def check_parts(stages: list[dict] | None, parts: set[str]) -> None:
    """Refuse a stage in which no weight of a model moves.

    Args:
        stages: the setting.
        parts: of `PARTS`, those that the model has weights of.

    Raises:
        ConfigError: names the stages.
    """
    idle = [f"{stage['name']} (trains {', '.join(stage['trains'])})" for stage in stages or () if not parts & {*stage["trains"]}]
    if idle:
        raise ConfigError([f"stages: {'; '.join(idle)}: this model has weights of {', '.join(sorted(parts))} alone, none of which would "
                           "move; name one of these, or leave the stage out"])  # fmt: skip


def stage_problems(final: dict) -> list[str]:
    """Lines for stages that train the projector alone on prompts without slots; values may still be of a wrong type."""
    stages = final.get("stages")
    if not stages_hold(stages):
        return []
    without = final.get("behaviour_tokens") == "none" and not final.get("user_token")
    idle = [str(stage["name"]) for stage in stages if {*stage["trains"]} == {"projector"} and (without or stage.get("prompts") == "text")]
    rule = "train the projector alone, on prompts without a slot that it fills, so that no weight would move"
    return [f"stages: {', '.join(idle)}: {rule}; set prompts: hybrid and behaviour_tokens, or train the adapter too"] if idle else []


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
