"""What RecBole's model classes read and give, as far as a protocol must know: labels, probabilities, sampled negatives."""

import inspect

from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType, ModelType

WHOLE_CATALOGUE = ("RepeatNet",)  # pointwise by RecBole's input_type, yet its loss reads no labels
USERS_UNREAD = ("DIN",)  # RecBole's looks up the user's features and leaves them out, as the paper's code does
UNIFORM = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}


def reads_labels(model_class) -> bool:
    """Whether the model's loss reads labels; others (SASRec, BPR ...) learn from the rows labelled 1."""
    declared = getattr(model_class, "reads_labels", None)
    if declared is not None:
        return bool(declared)
    if model_class.type in (ModelType.CONTEXT, ModelType.DECISIONTREE):
        return True
    pointwise = getattr(model_class, "input_type", None) == InputType.POINTWISE
    return pointwise and "self.LABEL" in inspect.getsource(model_class.calculate_loss)


def reads_ratings(model_class) -> bool:
    """Whether the model reads ratings of the history (`crm.rated_din`)."""
    return bool(getattr(model_class, "reads_ratings", False))


def reads_users(model_class) -> bool:
    """Whether what the model says of a user comes from an id, and so of known users alone."""
    return takes_users(model_class) and model_class.__name__ not in USERS_UNREAD


def takes_users(model_class) -> bool:
    """Whether the model is given users: general models, and forward(user, ...)."""
    return model_class.type == ModelType.GENERAL or "user" in inspect.signature(model_class.forward).parameters


def scores_catalogue(model_class) -> bool:
    """Whether the model scores all items at once; others (DIN) score pair by pair. Decision trees have no such method."""
    return getattr(model_class, "full_sort_predict", None) is not AbstractRecommender.full_sort_predict


def gives_probabilities(model_class) -> bool:
    """Whether `predict` gives probabilities of label 1: trained on labels, and squashed by a sigmoid."""
    if not reads_labels(model_class):
        return False
    declared = getattr(model_class, "gives_probabilities", None)
    if declared is not None:
        return bool(declared)
    predict = inspect.getsource(model_class.predict)
    if "return self.forward(interaction)" in predict:  # DCNV2 squashes there
        predict = inspect.getsource(model_class.forward)
    return "sigmoid" in predict


def training_negatives(model_class, final):
    """`train_neg_sample_args` by what the model's loss reads: None for losses over the whole catalogue, else uniform.

    RecBole raises for a sequential model with loss_type CE and sampled negatives, although that is its own default.
    """
    if model_class.type != ModelType.SEQUENTIAL:
        return dict(UNIFORM)
    if not hasattr(model_class, "input_type"):
        return None if final.get("loss_type") == "CE" else dict(UNIFORM)
    return None if model_class.__name__ in WHOLE_CATALOGUE else dict(UNIFORM)
