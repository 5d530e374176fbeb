"""A run that has ended comes back from its folder or `.pth`: data, model and scores."""

import recbole_llm  # noqa: F401, I001  isort: skip  (RecBole imports only after it)

import json
import os
import shutil

import pytest
import yaml
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_trainer

from recbole_llm import LLMConfig, fit
from recbole_llm.evaluation.candidate_loaders import CandidateEvalDataLoader
from tests import tiny
from tests.training.damage import reseal


def test_baseline_of_a_protocol_comes_back_with_its_candidates(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"data_path": str(tiny_data), "checkpoint_dir": "saved", "state": "error", "epochs": 1, "n_candidates": 8}
    given |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "show_progress": False, "embedding_size": 8}
    fitted = fit.fit(LLMConfig("BPR", "tiny", config_dict=given))
    assert fitted.trainer.saved_model_file.endswith(f"-tiny-seed2020-{os.getpid()}.pth")  # two runs of a second keep apart
    config, model, *_, test_data = load_data_and_model(fitted.trainer.saved_model_file)
    assert isinstance(test_data, CandidateEvalDataLoader) and config["n_candidates"] == 8
    before = fitted.trainer.evaluate(fitted.data[3])
    fitted.trainer.model = model
    assert fitted.trainer.evaluate(test_data, load_best_model=False) == before


def test_plugin_model_comes_back_from_its_folder(tiny_data, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])
    given = tiny.settings(tiny_data, tiny_llm, tmp_path, train_sample_size=8, crm_epochs=1)
    result = run_recbole(model="LLaRA", dataset="tiny", config_dict=given)["test_result"]
    (folder,) = (path for path in (tmp_path / "saved").glob("LLaRA-*") if path.is_dir())
    config, model, *_, test_data = load_data_and_model(str(folder))
    trainer = get_trainer(config["MODEL_TYPE"], "LLaRA")(config, model)
    assert trainer.evaluate(test_data, load_best_model=False) == result


@pytest.mark.parametrize("trusted", [False, True])
def test_a_checkpoint_cannot_ask_for_an_llms_own_code(run, tiny_llm, tmp_path, trusted):
    """It names an LLM that brings code and says trust_remote_code: only the caller's word counts."""
    mark, llm = tmp_path / "mark", tmp_path / "llm"
    shutil.copytree(tiny_llm, llm)
    settings = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**settings, "auto_map": {"AutoConfig": "own.OwnConfig"}}))
    code = f"import os\nos.mkdir({str(mark)!r})\nfrom transformers import LlamaConfig\n\nclass OwnConfig(LlamaConfig):\n    pass\n"
    (llm / "own.py").write_text(code)
    best = next(run.glob("best-*"))
    values = yaml.safe_load((best / "config.yaml").read_text())
    (best / "config.yaml").write_text(yaml.safe_dump({**values, "llm_path": str(llm), "trust_remote_code": True}))
    reseal(best)
    with pytest.raises((ValueError, FileExistsError)):  # in the end it is another LLM than the checkpoint's
        load_data_and_model(str(best), trust_remote_code=trusted)
    assert mark.exists() == trusted
