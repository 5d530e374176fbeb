
from recbole_llm.data.model_kinds import gives_probabilities, reads_labels
from tests.clicks import MODELS


def test_which_models_read_labels_and_give_probabilities():
    from recbole.utils import get_model

    known = {name: (reads_labels(get_model(name)), gives_probabilities(get_model(name))) for name in [*MODELS, "NeuMF"]}
    assert known == {
        **dict.fromkeys(["DIN", "DIEN", "DeepFM", "DCNV2", "AutoInt", "NeuMF"], (True, True)),
        **dict.fromkeys(["SASRec", "BPR"], (False, False)),
    }
