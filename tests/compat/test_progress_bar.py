import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer

from recbole_llm.compat.progress_bar import _Loader
from recbole_llm.config.loader import LLMConfig
from recbole_llm.fit import fit
from tests import tiny


def test_the_bar_shows_loss_speed_and_changes_nothing(tiny_data, tiny_llm, tmp_path, capfd):
    results = []
    for name, show in (("shown", True), ("hidden", False)):
        settings = {"data_path": str(tiny_data), "checkpoint_dir": str(tmp_path / name), "epochs": 2, "n_candidates": 8,
                    "result_dir": str(tmp_path), "show_progress": show,
                    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}  # fmt: skip
        fitted = fit(LLMConfig("SASRec", "tiny", config_dict=settings))
        results.append(fitted.trainer.model.item_embedding.weight.detach().clone())
        drawn = capfd.readouterr().err
        assert ("interactions/s" in drawn and "loss" in drawn) == show
    assert torch.equal(*results)


def test_a_trainer_with_its_own_epoch_keeps_it():
    class Own(Trainer):
        def __init__(self):
            pass

        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            return 1.0

    from recbole_llm.compat.progress_bar import show_loss_and_speed

    trainer = Own()
    show_loss_and_speed(trainer)
    assert "_train_epoch" not in vars(trainer)


def test_several_losses_are_shown_as_their_sum(capfd):
    loader = _Loader([Interaction({"x": torch.zeros(3)})], 0)
    watched = loader.watching(lambda batch: (torch.tensor(1.5), torch.tensor(2.0)))
    for batch in loader:
        assert len(watched(batch)) == 2
    assert loader.rows == 3 and "loss 3.5000" in capfd.readouterr().err


def test_evaluation_shows_tokens_per_second(tiny_data, tiny_llm, tmp_path, capfd):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path, crm_epochs=0, epochs=0, show_progress=True)
    fitted = fit(LLMConfig("LLaRA", "tiny", config_dict=settings))
    fitted.trainer.evaluate(fitted.data[3], load_best_model=False, show_progress=True)
    drawn = capfd.readouterr().err
    assert "Evaluate" in drawn and "tokens/s" in drawn
