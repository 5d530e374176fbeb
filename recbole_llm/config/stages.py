"""Training in named stages: which weights move, and whether prompts hold behaviour tokens, over shares of the steps.

    stages:
      - {name: text, until: 0.5, trains: [adapter], prompts: text}
      - {name: slots, until: 1.0, trains: [projector]}

Weights are selected, and training ends early, by validations of the last stage: before it, prompts hold what nothing has trained.
"""

PARTS = ("adapter", "projector", "router")
PROMPTS = ("text", "hybrid")


def stage_at(stages: list[dict], progress: float) -> dict:
    """The stage of training at ``progress`` in [0, 1]."""
    return next((stage for stage in stages if progress < stage["until"]), stages[-1])


def in_last_stage(stages: list[dict] | None, progress: float) -> bool:
    """Whether ``progress`` in [0, 1] belongs to the last stage, or to training without stages."""
    return not stages or stage_at(stages, progress) is stages[-1]


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
