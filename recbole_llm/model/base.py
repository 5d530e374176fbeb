"""What every LLM recommender shares: a frozen CRM, a frozen LLM with an adapter, a projector, candidate scoring.

A new model overrides up to four methods: :meth:`LLMRecommender.render` (the prompt), :meth:`hybrid_probability` (the
curriculum), :meth:`adapter_config` (which adapter goes on the LLM) and :meth:`gate` (how experts are mixed for a row).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from logging import getLogger

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType, ModelType, init_seed
from torch import nn

from recbole_llm import alignment, crm, forward, scoring
from recbole_llm.adapter import enable_gradient_checkpointing, use_gate
from recbole_llm.builtin.openers import misread
from recbole_llm.builtin.slots import is_pretrained_here, pretrained_projector
from recbole_llm.data import prompt
from recbole_llm.data.questions import click_templates
from recbole_llm.data.tokens import USER_SLOT
from recbole_llm.llm import check_tokenizer, constrained, context_length, load_llm, resolve_path
from recbole_llm.rivals import log_probs


class Projector(nn.Sequential):
    """CRM vectors ``[..., d]`` -> LLM embeddings ``[..., hidden]``: Linear-GELU-Linear (LLaRA, section 3.2).

    Inputs are standardised with the table's own mean and deviation (fixed), so that one learning rate suits every CRM.
    User vectors are scaled only: their inner product with an item vector is the CRM's score, which centring would change.
    The output starts at the scale of the LLM's token embeddings, or at the weights in ``start``: those that the
    built-in LLM was pretrained with, which suit any standardised vectors.
    """

    def __init__(
        self,
        table: torch.Tensor,
        hidden: int,
        out_std: float,
        start: dict[str, torch.Tensor] | None = None,
        centred: bool = True,
    ):
        super().__init__(nn.Linear(table.shape[1], hidden), nn.GELU(), nn.Linear(hidden, hidden))
        mean = table[1:].mean(0) if centred else torch.zeros(table.shape[1])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", (table[1:] - mean).square().mean().sqrt().clamp_min(1e-6), persistent=False)
        if start is not None:
            self.load_state_dict(start)
            return
        with torch.no_grad():
            sample = self(table[1:1025])
            self[2].weight.mul_(out_std / sample.std().clamp_min(1e-6))
            self[2].bias.zero_()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return super().forward((vectors - self.mean) / self.std)


class LLMRecommender(SequentialRecommender):
    """Ranks candidates by the log-likelihood of their titles under an adapted LLM.

    Batches come from :mod:`recbole_llm.data.dataloader` (shapes there). ``forward`` gives the answer's
    log-likelihood, so that a distributed wrapper sees every trainable weight in one module.
    """

    type = ModelType.SEQUENTIAL
    input_type = InputType.POINTWISE
    template_fields = ("history", "candidates")
    scoring = "title"  # "yes_no": a click model, see model/reclora.py

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.constrained = constrained(config)
        self.tokens = dataset.prompt_tokenizer
        self.crm = crm.load_or_train(config, dataset)
        init_seed(config["seed"], config["reproducibility"])  # the same start whether the CRM was trained now or read
        llm = load_llm(config)
        check_tokenizer(llm, self.tokens.tokenizer, self.tokens.used(self._templates()))
        self.context_length = context_length(llm)
        embeddings = llm.get_input_embeddings()
        some = torch.arange(min(4096, embeddings.num_embeddings), device=embeddings.weight.device)
        out_std = embeddings(some).detach().float().std().item()  # as the LLM sees them: Gemma scales its embeddings
        hidden = embeddings.embedding_dim
        self.projector = self._projector(self.crm.item_vectors, hidden, out_std)
        self.user_dim = self.crm.user_dim(dataset)
        if config["user_token"]:
            self.user_projector = self._projector(self._user_sample(dataset), hidden, out_std, centred=False)
        if config["projector_alignment"]:
            self._align_projectors(dataset)
        self.llm = self.adapt(llm)
        _silence_dropout(self.llm)
        self._warn_of_misread_prompts()

    # ---- what a model may override -------------------------------------------------------------------------------

    @classmethod
    def render(cls, example) -> list[prompt.Segment]:
        """Segments of one example's prompt (:class:`recbole_llm.data.dataloader.Example`)."""
        return prompt.render(
            example.template,
            example.history,
            example.candidates,
            behaviour_tokens=example.behaviour_tokens,
            user_token=example.user_token,
        )

    @classmethod
    def hybrid_probability(cls, config, progress: float) -> float:
        """Chance that a training batch at ``progress`` in [0, 1) carries behaviour tokens (LLaRA, section 3.3)."""
        return progress if config["curriculum"] == "linear" else 1.0

    @classmethod
    def released_settings(cls, settings: dict) -> dict:
        """What ``recipe: released`` changes in the configuration: the quirks of the authors' code, as settings."""
        return {}

    def adapter_config(self) -> LoraConfig:
        """Plain LoRA on the configured projections."""
        return LoraConfig(task_type="CAUSAL_LM", **self.lora_arguments())

    def lora_arguments(self) -> dict:
        return {
            "r": self.config["lora_r"],
            "lora_alpha": self.config["lora_alpha"],
            "lora_dropout": self.config["lora_dropout"],
            "target_modules": self.config["lora_target_modules"],
        }

    def adapt(self, llm) -> PeftModel:
        return get_peft_model(llm, self.adapter_config())

    def gate(self, interaction: Interaction) -> torch.Tensor | None:
        """Mixing weights ``[B, K]`` of the adapter's experts, or None for an adapter without a gate."""
        return None

    def gated(self, interaction: Interaction) -> AbstractContextManager:
        """Context in which the adapter mixes its experts for these rows."""
        gate = self.gate(interaction)
        return nullcontext() if gate is None else use_gate(self.llm, gate)

    def parameter_groups(self) -> list[dict]:
        """Trainable weights with their own learning-rate scale: adapter, projector, router."""
        groups = {"adapter": [], "projector": [], "router": []}
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                kind = "projector" if "projector" in name else "router" if name.startswith("router") else "adapter"
                groups[kind].append((name, weight))
        scales = {"adapter": 1.0, "projector": self.config["projector_lr_scale"], "router": self.config["router_lr_scale"]}
        decay = self.config["weight_decay"]
        out = []
        for kind, members in groups.items():
            spared = {n for n, w in members if w.ndim < 2 or n.endswith("bias") or "norm" in n}  # no weight decay
            plain, full = [w for n, w in members if n in spared], [w for n, w in members if n not in spared]
            for weights, wd in ((full, decay), (plain, 0.0)):
                if weights:
                    out.append({"params": weights, "name": kind, "lr_scale": scales[kind], "weight_decay": wd})
        return out

    # ---- shared machinery ----------------------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Adapter, projector and router follow ``mode``; the frozen CRM stays in evaluation mode."""
        super().train(mode)
        self.crm.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass; a gated adapter's recomputation gets its batch's gate back.

        Layers checkpoint in training mode only, so evaluation is as before.
        """
        if hasattr(self.llm, "gate_holder"):
            enable_gradient_checkpointing(self.llm)
        else:
            self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def embed(self, interaction: Interaction) -> torch.Tensor:
        """Prompt embeddings ``[B, P, hidden]``: token embeddings with projected vectors in the slots."""
        ids, items = interaction["prompt_ids"], interaction["prompt_items"]
        self._check_length(ids.shape[1])
        embeds = self.llm.get_input_embeddings()(ids)
        slots = items > 0
        if slots.any():
            vectors = self.projector(self.crm.item_vectors[items[slots]])
            embeds = embeds.masked_scatter(slots.unsqueeze(-1), vectors.to(embeds.dtype))
        elif self.training:
            embeds = embeds + _untouched(self.projector).to(embeds.dtype)
        users = items == USER_SLOT
        if users.any():
            rows = users.any(1)
            vectors = self.user_projector(self.crm.user_vectors(interaction)[rows])
            embeds = embeds.masked_scatter(users.unsqueeze(-1), vectors.to(embeds.dtype))
        elif self.training and self.config["user_token"]:
            embeds = embeds + _untouched(self.user_projector).to(embeds.dtype)
        return embeds

    def forward(self, interaction: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Teacher-forced answers.

        Returns:
            ``(log_likelihood [B], answer tokens [B])``, the first summed over each answer's title and end token: over
            the vocabulary, or (``likelihood_over: candidates``) among the tokens that lead to a candidate.
        """
        answer, answer_mask = interaction["answer_ids"], interaction["answer_mask"]
        self._check_length(interaction["prompt_ids"].shape[1], answer.shape[1] - 1)
        embeds = torch.cat([self.embed(interaction), self.llm.get_input_embeddings()(answer)], dim=1)
        mask = torch.cat([interaction["prompt_mask"], answer_mask], dim=1)
        with self.gated(interaction):
            logits = self.llm(
                inputs_embeds=embeds,
                attention_mask=mask.long(),
                position_ids=(mask.long().cumsum(1) - 1).clamp_min(0),
                logits_to_keep=answer.shape[1] + 1,
                use_cache=False,
            ).logits[:, :-1]  # position j predicts answer token j
        if self.constrained:
            found = log_probs(logits, answer, interaction["rival_ids"], interaction["rival_mask"])  # [B, A]
        else:
            losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), answer.flatten(), reduction="none")
            found = -losses.view(answer.shape)
        return (found * answer_mask).sum(1), answer_mask.sum(1)

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """Mean negative log-likelihood per answer token."""
        log_likelihood, n_tokens = self(interaction)
        return -log_likelihood.sum() / n_tokens.sum()

    @torch.no_grad()
    def score_candidates(self, interaction: Interaction) -> torch.Tensor:
        """Log-likelihood of every candidate's answer, ``[B, C]`` float32, in candidate-set order."""
        self._check_length(interaction["prompt_ids"].shape[1], interaction["branch_ids"].shape[2] - 1)
        with self.gated(interaction):
            return scoring.score_candidates(
                self.llm,
                self.embed(interaction),
                interaction["prompt_mask"],
                interaction["branch_ids"],
                interaction["branch_mask"],
                method=self.config["scoring_method"],
                constrained=self.constrained,
            )

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        """``[B, item_num]``: candidate scores, minus infinity elsewhere."""
        scores = self.score_candidates(interaction)
        full = scores.new_full((len(scores), self.n_items), -torch.inf)
        return full.scatter(1, interaction["candidates"], scores)

    def predict(self, interaction: Interaction) -> torch.Tensor:
        """``[B]``: the score of each row's ``item_id``, which must be one of its candidates."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    @torch.no_grad()
    def generate(self, interaction: Interaction) -> list[str]:
        """Greedy answers as text, one per row."""
        longest = int(interaction["branch_mask"].sum(-1).max())
        self._check_length(interaction["prompt_ids"].shape[1], longest - 1)
        with self.gated(interaction):
            ids = forward.generate(
                self.llm,
                self.embed(interaction),
                interaction["prompt_mask"],
                max_new_tokens=longest,
                eos_token_id=self.tokens.eos_token_id,
                pad_token_id=self.tokens.pad_token_id,
            )
        return self.tokens.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _check_length(self, prompt_length: int, answer_length: int = 0) -> None:
        """Refuse a prompt that does not fit with the tokens fed after it (all of an answer but its last)."""
        if self.context_length and prompt_length + answer_length > self.context_length:
            answer = f", with {answer_length} of an answer," if answer_length else ""
            raise ValueError(
                f"a prompt of {prompt_length} tokens{answer} does not fit the LLM's context of {self.context_length}; lower "
                "history_max_len, n_candidates or title_max_tokens, or choose an LLM with a longer context"
            )

    def _projector(self, table: torch.Tensor, hidden: int, out_std: float, centred: bool = True) -> Projector:
        path = resolve_path(self.config)
        start = pretrained_projector(path, table.shape[1])  # other LLMs than ours have none
        if start is None and self.config["projector_alignment"]:
            raise ValueError(
                f"projector_alignment: the projectors of llm_path={path!r} are drawn at random for vectors of {table.shape[1]} "
                "numbers, and what an LLM makes of their inner products is not known before it is fine-tuned; set it to null, or "
                "use llm_path: builtin and a CRM with narrower vectors"
            )
        return Projector(table, hidden, out_std, start, centred)

    def _align_projectors(self, dataset) -> None:
        """Multiply what :mod:`recbole_llm.alignment` learns from training rows into the projectors' first layers."""
        projectors = [self.projector, self.user_projector] if self.config["user_token"] else [self.projector]
        for projector, matrix in zip(projectors, alignment.alignment_maps(self.config, dataset, self.crm), strict=True):
            with torch.no_grad():
                projector[0].weight.copy_(projector[0].weight @ matrix.T)

    def _templates(self) -> list[str]:
        config = self.config
        templates = click_templates(config) if self.scoring == "yes_no" else config["prompt_templates"]
        return prompt.with_words(templates, config["prompt_words"])

    def _warn_of_misread_prompts(self) -> None:
        """The built-in LLM knows by a few words where candidates begin; other LLMs read."""
        config = self.config
        if config["behaviour_tokens"] == "none" or not is_pretrained_here(resolve_path(config)):
            return
        for line in misread(self.tokens.tokenizer, self._templates()):
            getLogger().warning(line)

    @torch.no_grad()
    def _user_sample(self, dataset) -> torch.Tensor:
        """User vectors of up to 1,024 training rows, for the user projector's fixed scale."""
        return self.crm.user_vectors(dataset.inter_feat[:1024]).cpu()

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Weights that training changes, by name: what a checkpoint holds."""
        return {name: w.detach() for name, w in self.named_parameters() if w.requires_grad}


def _silence_dropout(llm: nn.Module) -> None:
    """Turn off the frozen LLM's own dropout for good: its layers must be in training mode to checkpoint activations."""
    for name, module in llm.named_modules():
        if "lora_" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _untouched(module: nn.Module) -> torch.Tensor:
    """Zero, with a gradient (of zero) for weights that a batch does not use: a distributed wrapper waits for it."""
    return 0.0 * sum(weight.sum() for weight in module.parameters())
