"""What a user sees of a run."""

import pytest

from tests import workers
from tests.training.making import trainer_of


def test_steps_are_logged_and_the_run_is_summed_up(fresh, caplog):
    config, data, model = fresh
    points = []

    class Writer(workers.NoWriter):
        def add_scalar(self, name, value, step):
            points.append((name, step, value))

    caplog.set_level("INFO")
    trainer = trainer_of(config, data, model)
    trainer.tensorboard = Writer()
    logged = []
    trainer.wandblogger.log_metrics = lambda values, head: logged.append((head, values))
    trainer.fit(data[1], data[2])
    assert [step for name, step, _ in points if name == "Train/loss"] == [1, 2, 3, 4]
    assert {"Train/learning_rate", "Train/grad_norm", "Train/tokens_per_second"} <= {name for name, *_ in points}
    assert [values["train_step"] for head, values in logged if head == "train"] == [1, 2, 3, 4]
    assert trainer.speed["tokens_per_second"] > 0 and trainer.speed["mfu"] is None
    assert "model FLOPs utilisation -, peak memory" in caplog.text and "waiting for data" in caplog.text


def test_the_bar_shows_speed_loss_rate_and_memory(fresh, capsys):
    config, data, model = fresh
    config["max_steps"] = 1
    trainer_of(config, data, model).fit(data[1], data[2], saved=False, show_progress=True)
    shown = capsys.readouterr().err
    assert "loss " in shown and "lr " in shown and "tok/s" in shown and " GB" in shown and "1/1" in shown


@pytest.mark.parametrize("key, value", [("llm_eval", "generate"), ("selection", "generation")])
def test_answers_generated_after_training_among_candidates_are_warned_of(fresh, caplog, key, value):
    config, data, model = fresh
    config[key] = value
    trainer_of(config, data, model)
    assert "few generated answers are titles" not in caplog.text
    model.constrained = True
    trainer_of(config, data, model)
    assert "few generated answers are titles; set likelihood_over: vocabulary" in caplog.text
