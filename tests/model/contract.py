"""What every LLM recommender must do. A model's test file subclasses :class:`ModelContract` and names the model."""

import copy

import numpy as np
import pytest
import torch
from recbole.utils import get_model, init_seed

from recbole_llm import LLMConfig, registry
from recbole_llm.config.properties import short_names
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.llm.constrained_vocabulary import rivals
from recbole_llm.training.checkpoint import load_checkpoint_into, save_checkpoint
from recbole_llm.training.trainer import LLMTrainer
from tests import tiny


class ModelContract:
    """Tests that hold for any :class:`~recbole_llm.model.base.LLMRecommender`.

    Subclasses set ``name`` and, where the model needs them, ``settings``.
    """

    name: str
    settings: dict = {}

    @property
    def branch_columns(self):
        """What describes a candidate beside the prompt."""
        head = registry.head(self.name)
        asked = ("branch_items",) if head.pointwise else ()
        return ("branch_ids", "branch_mask", *asked, *(("candidates",) if head.pointwise or head.whole_catalogue else ()))

    def build(self, tiny_data, tiny_llm, out, **more):
        config = LLMConfig(
            self.name, "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **{"stages": None, **self.settings, **more})
        )
        init_seed(config["seed"], True)
        data = prepare_data(config)
        model = get_model(self.name)(config, data[1]._dataset)
        return config, data, model

    @pytest.fixture(scope="class")
    def built(self, tiny_data, tiny_llm, tmp_path_factory):
        return self.build(tiny_data, tiny_llm, tmp_path_factory.mktemp(self.name))

    @pytest.fixture
    def model(self, built):
        """A fresh copy, perturbed so that the adapter (whose B starts at zero) takes part."""
        model = copy.deepcopy(built[2])
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.requires_grad and "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
        return model.eval()

    @pytest.fixture
    def batch(self, built):
        return next(iter(built[1][3]))  # the test loader's first batch: the longest prompts

    @pytest.fixture
    def train_batch(self, built):
        loader = built[1][1]
        loader.set_epoch(0)
        return next(iter(loader))

    @pytest.mark.parametrize("llm_path", short_names())
    def test_what_suits_an_llm_leaves_the_model_itself(self, llm_path):
        """The LLM's own YAML goes over llm.yaml for all models: each must say what its prompts and its loss depend on."""
        config = LLMConfig(self.name, "ml-100k", config_dict={"llm_path": llm_path})
        fixed = config.model_class.fixed_settings()
        assert {key: config[key] for key in fixed} == fixed

    def test_scores_are_finite_and_differ(self, model, batch):
        scores = model.score_candidates(batch)
        assert scores.shape == batch["candidates"].shape
        assert torch.isfinite(scores).all() and scores.std() > 0

    def test_a_row_is_scored_the_same_alone_and_among_others(self, model, batch):
        together = model.score_candidates(batch)
        for row in (0, len(batch) // 2, len(batch) - 1):
            torch.testing.assert_close(model.score_candidates(batch[[row]])[0], together[row], rtol=1e-4, atol=1e-4)

    def test_padding_does_not_change_scores(self, model, batch):
        wider = copy.deepcopy(batch)
        for column, fill in (("prompt_ids", 0), ("prompt_mask", False), ("prompt_items", 0)):
            pad = wider[column].new_full((len(batch), 5), fill)
            wider.interaction[column] = torch.cat([pad, wider[column]], 1)
        torch.testing.assert_close(model.score_candidates(wider), model.score_candidates(batch), rtol=1e-4, atol=1e-4)

    def test_the_order_of_the_branches_does_not_change_scores(self, model, batch):
        order = torch.randperm(batch["candidates"].shape[1], generator=torch.Generator().manual_seed(0))
        shuffled = copy.deepcopy(batch)
        for column in self.branch_columns:
            shuffled.interaction[column] = shuffled[column][:, order]
        torch.testing.assert_close(
            model.score_candidates(shuffled), model.score_candidates(batch)[:, order], rtol=1e-4, atol=1e-4
        )

    def test_scoring_methods_agree(self, model, batch):
        methods = {}
        for method in ("tree", "cache", "separate"):
            model.config["scoring_method"] = method
            methods[method] = model.score_candidates(batch)
        model.config["scoring_method"] = "auto"
        torch.testing.assert_close(methods["tree"], methods["separate"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(methods["cache"], methods["separate"], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("constrained", [True, False])
    def test_likelihood_of_the_answer_is_the_score_of_the_target(self, model, batch, constrained, monkeypatch):
        """Training and scoring read the same distribution: teacher forcing on the target = its branch."""
        monkeypatch.setattr(model, "constrained", constrained)
        place = batch["target_position"]
        rows = torch.arange(len(batch))
        labelled = copy.deepcopy(batch)
        labelled.interaction["answer_ids"] = batch["branch_ids"][rows, place]
        labelled.interaction["answer_mask"] = batch["branch_mask"][rows, place]
        for name, part in zip(("ids", "mask"), rivals(batch["branch_ids"], batch["branch_mask"]), strict=True):
            labelled.interaction[f"rival_{name}"] = part[rows, place]
        with torch.no_grad():
            log_likelihood, n_tokens = model(labelled)
        torch.testing.assert_close(log_likelihood, model.score_candidates(batch)[rows, place], rtol=1e-4, atol=1e-4)
        assert (n_tokens == model.weight(labelled)).all()

    def test_untrained_hit_rate_is_flat_over_target_positions(self, built, model):
        """An untrained model must not profit from where the target stands: its favourite position is not the target's."""
        config, data, _ = built
        hits = []
        for loader in data[2:]:
            for batch in loader:
                hits.append((model.score_candidates(batch).argmax(1) == batch["target_position"]).float())
        hits = torch.cat(hits)
        chance = 1 / config["n_candidates"]
        bound = 4 * np.sqrt(chance * (1 - chance) / len(hits))
        assert abs(hits.mean().item() - chance) < bound

    def test_every_trainable_weight_gets_a_gradient_and_no_frozen_one(self, model, train_batch):
        assert model.crm is None or (train_batch["prompt_items"] != 0).any(), "build the contract's model with curriculum: none"
        model.train()
        model.calculate_loss(train_batch).backward()
        without = [n for n, w in model.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())]
        frozen = [n for n, w in model.named_parameters() if not w.requires_grad and w.grad is not None]
        assert not without and not frozen
        in_groups = {id(w) for group in model.parameter_groups() for w in group["params"]}
        assert in_groups == {id(w) for w in model.parameters() if w.requires_grad}

    def test_loss_falls_and_frozen_weights_stay(self, built, model):
        config, data, _ = built
        model.config["learning_rate"] = 0.01
        frozen = {n: w.clone() for n, w in model.named_parameters() if not w.requires_grad}
        trainer = LLMTrainer(model.config, model)
        loader = data[1]
        loader.set_epoch(0)
        group = [next(iter(loader))]
        trainer._start_schedule(400)
        model.train()
        losses = [trainer._step(group)[0] for _ in range(20)]
        assert losses[-1] < 0.97 * losses[0]  # the LLM is random and frozen: its output layer bounds what can be learnt
        assert all(torch.equal(w, frozen[n]) for n, w in model.named_parameters() if not w.requires_grad)

    def test_checkpoint_gives_the_same_scores_back(self, built, model, batch, tmp_path):
        save_checkpoint(model, tmp_path / "saved", {"epoch": 3})
        fresh = copy.deepcopy(built[2]).eval()
        before = fresh.score_candidates(batch)
        assert load_checkpoint_into(fresh, tmp_path / "saved")["epoch"] == 3
        assert torch.equal(fresh.score_candidates(batch), model.score_candidates(batch))
        assert not torch.equal(before, model.score_candidates(batch))

    def test_a_checkpoint_of_another_run_is_refused(self, model, tmp_path):
        save_checkpoint(model, tmp_path / "saved", {"epoch": 0})
        model.config["dataset"], name = "elsewhere", model.config["dataset"]
        with pytest.raises(ValueError, match="dataset: checkpoint 'tiny', here 'elsewhere'"):
            load_checkpoint_into(model, tmp_path / "saved")
        model.config["dataset"] = name

    def test_disk_holds_no_frozen_weight(self, model, tmp_path):
        save_checkpoint(model, tmp_path / "saved", {"epoch": 0})
        size = sum(f.stat().st_size for f in (tmp_path / "saved").glob("*.safetensors"))
        trainable = sum(w.numel() * w.element_size() for w in model.parameters() if w.requires_grad)
        assert size < trainable + 60_000  # headers

    def test_full_sort_predict_ranks_the_candidates_only(self, model, batch):
        full = model.full_sort_predict(batch)
        assert full.shape == (len(batch), model.n_items)
        assert torch.isfinite(full).sum(1).eq(batch["candidates"].shape[1]).all()
        torch.testing.assert_close(
            model.predict(batch), full.gather(1, batch["item_id"][:, None]).squeeze(1), rtol=0, atol=0
        )


class PointwiseContract(ModelContract):
    """The same for a model that answers Yes or No about each candidate."""

    def test_likelihood_of_the_answer_is_the_score_of_the_target(self, model, batch):
        """Teacher forcing Yes and No behind the target's whole prompt gives the odds of its P(Yes)."""
        place, rows = batch["target_position"], torch.arange(len(batch))
        asked = copy.deepcopy(batch)
        mask = torch.cat([batch["prompt_mask"], batch["branch_mask"][rows, place]], 1)
        order = mask.long().argsort(dim=1, stable=True)  # left-padded, as in training
        asked.interaction["prompt_mask"] = mask.gather(1, order)
        for name in ("ids", "items"):
            whole = torch.cat([batch[f"prompt_{name}"], batch[f"branch_{name}"][rows, place]], 1)
            asked.interaction[f"prompt_{name}"] = whole.gather(1, order)
        likelihood = []
        for answer in model.yes_no:
            asked.interaction["answer_ids"] = torch.full((len(batch), 1), answer)
            asked.interaction["answer_mask"] = torch.ones(len(batch), 1, dtype=torch.bool)
            asked.interaction["rival_ids"] = torch.tensor(list(model.yes_no)).expand(len(batch), 1, 2)
            asked.interaction["rival_mask"] = torch.ones(len(batch), 1, 2, dtype=torch.bool)
            with torch.no_grad():
                likelihood.append(model(asked)[0])
        expected = model.score_candidates(batch)[rows, place]
        torch.testing.assert_close((likelihood[0] - likelihood[1]).sigmoid(), expected, rtol=1e-4, atol=1e-4)

    def test_scores_are_probabilities(self, model, batch):
        scores = model.score_candidates(batch)
        assert ((scores > 0) & (scores < 1)).all()
