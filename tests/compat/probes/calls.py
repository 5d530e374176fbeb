"""Shims for RecBole's calls: cost of a model, case studies, checkpoints, searches."""

import os
import pickle
import types

from tests.compat.probes.common import COLUMNS, FOLDER, IN_TIME, config, dataset, probe, write


class Mark:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@probe
def flops():
    import torch
    from recbole.quick_start import quick_start
    from recbole.utils import ModelType

    from recbole_llm import registry

    class Huge(torch.nn.Module):
        type = ModelType.SEQUENTIAL

        def __deepcopy__(self, memo):
            raise MemoryError("a second copy of the model")

    registry.register(Huge)
    logger = types.SimpleNamespace(info=lambda text: None)
    assert quick_start.get_flops(Huge(), None, "cpu", logger, None) == 0


@probe
def case_studies():
    import torch
    from recbole.utils import case_study

    class Scores:
        eval = full_sort_predict = staticmethod(lambda rows=(): torch.zeros(len(rows), 6))

    settings = {"dataset": "seconds", "model": "SASRec", "train_neg_sample_args": None} | IN_TIME
    write("seconds", "inter", COLUMNS, ("late", "i0", 5), *((f"u{u}", f"i{s}", 10 * s) for u in range(6) for s in range(5)))
    split = dataset(**settings).build()[2]
    test = types.SimpleNamespace(dataset=split, is_sequential=True)
    users = split.token2id("user_id", ["u0", "late", "u1"])
    try:
        found = case_study.full_sort_scores(users, Scores(), test)
    except ValueError as error:
        assert "1 of 3 users have no row" in str(error) and "'late'" in str(error), error
        return
    raise AssertionError(f"{len(found)} lines of scores for 3 users")


@probe
def plain_checkpoints():
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.quick_start.quick_start import load_data_and_model as inner

    settings = {"data_path": str(FOLDER / "data"), "checkpoint_dir": str(FOLDER / "saved"), "state": "error"}
    result = run_recbole("ItemKNN", "probe", config_dict=settings | {"show_progress": False})
    (file,) = (FOLDER / "saved").glob("ItemKNN-*.pth")
    _, model, *_ = load_data_and_model(str(file))
    assert inner is load_data_and_model and model.pred_mat.nnz and result["test_result"]


@probe
def pickled_datasets():
    from recbole.data import create_dataset

    mark = FOLDER / f"mark-{os.getpid()}"
    (FOLDER / "pickles").mkdir(exist_ok=True)
    (FOLDER / "pickles/probe-Dataset.pth").write_bytes(pickle.dumps(Mark(mark)))
    try:
        create_dataset(config(checkpoint_dir=str(FOLDER / "pickles")))
    except ValueError as error:
        assert "probe-Dataset.pth" in str(error) and "checkpoint_dir" in str(error)
    finally:
        assert not mark.exists(), "the pickle ran"


@probe
def hyper_tuning():
    from recbole.trainer import HyperTuning

    def objective(params, files):
        score = 5 - abs(params["x"] - 2)  # RecBole takes a score of 0 for none
        return {"model": "m", "best_valid_score": score, "valid_score_bigger": True, "best_valid_result": {}, "test_result": {}}

    search = HyperTuning(objective, params_dict={"choice": {"x": [1, 2, 3]}}, algo="exhaustive")
    search.run()
    assert search.best_params == {"x": 2} and len(search.params2result) == 3
