"""What every LLM recommender shares: a frozen CRM, a frozen LLM with an adapter, a projector, candidate scoring.

A new model overrides what :class:`recbole_llm.model.contract.Contract` names: the prompt, the answer, the curriculum, the adapter, the gate.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel, get_peft_model
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType, ModelType, init_seed
from torch import nn

from recbole_llm.adapter import cast_weights, drop_by_row, enable_gradient_checkpointing, use_gate
from recbole_llm.crm.training import load_or_train
from recbole_llm.data import prompt
from recbole_llm.data.tokens import USER_SLOT
from recbole_llm.llm import branch_forward, causal_lm
from recbole_llm.llm.constrained_vocabulary import Among, until_last_choice
from recbole_llm.llm.loading import context_length, load_llm
from recbole_llm.llm.packing import LIST_FIELD, SHARED_FIELD, Packing
from recbole_llm.llm.tokenizer import check_tokenizer
from recbole_llm.model.by_hand import HandMade
from recbole_llm.model.parameter_groups import parameter_groups
from recbole_llm.model.projector import Projector, untouched
from recbole_llm.model.scoring import CandidateScoring


class LLMRecommender(CandidateScoring, SequentialRecommender):
    """Ranks candidates by the log-likelihood of their titles under an adapted LLM.

    Batches come from the loaders of its :mod:`head <recbole_llm.data.heads>` (shapes in :mod:`recbole_llm.data.collate`).
    ``forward`` gives the answer's log-likelihood, so that a distributed wrapper sees every trainable weight in one module.
    How candidates are scored and answers written with these weights is :class:`~recbole_llm.model.scoring.CandidateScoring`'s.
    """

    type = ModelType.SEQUENTIAL
    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.constrained = config["likelihood_over"] == "candidates"
        self.tokens = dataset.prompt_tokenizer
        self.by_hand = HandMade(self, dataset)
        self.crm = load_or_train(config, dataset) if self.needs_crm(config) else None
        init_seed(config["seed"], config["reproducibility"])  # the same start whether the CRM was trained now or read
        llm = load_llm(config)
        check_tokenizer(llm, self.tokens.tokenizer, self.tokens.used(self._templates()))
        self.context_length = context_length(llm)
        self.user_dim = self.crm.user_dim(dataset) if self.crm else None
        if self.uses_projector:
            self._add_projectors(llm.get_input_embeddings(), dataset)
        self.llm = self.adapt(llm)
        causal_lm.silence_dropout(self.llm)

    def _add_projectors(self, embeddings: nn.Embedding, dataset) -> None:
        """From the CRM's vectors to slots of the scale of the LLM's embeddings."""
        config = self.config
        some = torch.arange(min(4096, embeddings.num_embeddings), device=embeddings.weight.device)
        out_std = embeddings(some).detach().float().std().item()  # as the LLM sees them: Gemma scales its embeddings
        hidden = embeddings.embedding_dim
        centred = config["projector_form"] == "mlp"  # a linear map starts as the CRM's own inner products
        self.projector = self._projector(self.crm.item_vectors.cpu(), hidden, out_std, centred)
        if config["user_token"]:
            self.user_projector = self._projector(self._user_sample(dataset), hidden, out_std, centred=False)

    def adapt(self, llm) -> PeftModel:
        """The LLM with its adapter; plain LoRA computes in the LLM's precision (:mod:`recbole_llm.adapter.plain`)."""
        adapted = get_peft_model(llm, self.adapter_config())
        cast_weights(adapted)
        shared = self.config["lora_dropout_shared"]
        if shared == "auto" and self.config["device"].type == "cpu" or shared is True:
            drop_by_row(adapted)
        return adapted

    def gated(self, interaction: Interaction) -> AbstractContextManager:
        """Context in which the adapter mixes its experts for these rows."""
        gate = self.gate(interaction)
        return nullcontext() if gate is None else use_gate(self.llm, gate)

    def parameter_groups(self) -> list[dict]:
        """Trainable weights with their own learning-rate scale: adapter, projector, router."""
        config = self.config
        scales = {"adapter": 1.0, "projector": config["projector_lr_scale"], "router": config["router_lr_scale"]}
        return parameter_groups(self.named_parameters(), scales, config["weight_decay"])

    # ---- shared machinery ----------------------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Adapter, projector and router follow ``mode``; the frozen CRM stays in evaluation mode."""
        super().train(mode)
        if self.crm:
            self.crm.eval()
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass; a gated adapter's recomputation gets its batch's gate back.

        Layers checkpoint in training mode only, so evaluation is as before.
        """
        enable_gradient_checkpointing(self.llm, gated=hasattr(self.llm, "gate_holder"))

    def embed(self, interaction: Interaction) -> torch.Tensor:
        """Prompt embeddings ``[B, P, hidden]``: token embeddings with projected vectors in the slots."""
        ids, items = interaction["prompt_ids"], interaction["prompt_items"]
        self._check_length(ids.shape[1])
        embeds = self.llm.get_input_embeddings()(ids)
        slots = items > 0
        if slots.any():
            vectors = self.projector(self.crm.item_vectors[items[slots]])
            embeds = embeds.masked_scatter(slots.unsqueeze(-1), vectors.to(embeds.dtype))
        elif self.training and self.uses_projector:
            embeds = embeds + untouched(self.projector).to(embeds.dtype)
        users = items == USER_SLOT
        if users.any():
            rows = users.any(1)
            vectors = self.user_projector(self.crm.user_vectors(interaction)[rows])
            embeds = embeds.masked_scatter(users.unsqueeze(-1), vectors.to(embeds.dtype))
        elif self.training and hasattr(self, "user_projector"):
            embeds = embeds + untouched(self.user_projector).to(embeds.dtype)
        return embeds

    def forward(self, interaction: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Teacher-forced answers.

        Returns:
            ``(log_likelihood [B], weight [B])``, the first summed over each answer's title and end token: over
            the vocabulary, or (``likelihood_over: candidates``) among the tokens that lead to a candidate.
        """
        answer, answer_mask = interaction["answer_ids"], interaction["answer_mask"]
        weight, among = self.weight(interaction), None
        if self.constrained:  # tokens after every row's last choice cost nothing
            length = int(until_last_choice(interaction["rival_mask"]).sum(1).max())
            answer, answer_mask = answer[:, :length], answer_mask[:, :length]
            among = Among.of(answer, interaction["rival_ids"][:, :length], interaction["rival_mask"][:, :length])
        fed, keep = answer[:, :-1], answer.shape[1]  # the last token is only a label
        self._check_length(interaction["prompt_ids"].shape[1], fed.shape[1])
        embeds = torch.cat([self.embed(interaction), self.llm.get_input_embeddings()(fed)], dim=1)
        mask = torch.cat([interaction["prompt_mask"], answer_mask[:, :-1]], dim=1)
        run = self._packed_logits if LIST_FIELD in interaction else self._logits
        logits = run(interaction, embeds, mask, keep, among.tokens if among else None)  # position j predicts answer token j
        if among:
            found = among.log_probs(logits)  # [B, A]
        else:
            losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), answer.flatten(), reduction="none")
            found = -losses.view(answer.shape)
        return (found * answer_mask).sum(1), weight

    def _logits(self, interaction, embeds, mask, keep: int, tokens) -> torch.Tensor:
        """``[B, keep, V]`` at the last positions of ``embeds [B, W, d]``, of these tokens of the vocabulary or of all."""
        with self.gated(interaction):
            out = causal_lm.forward(
                self.llm, embeds, mask.long(), causal_lm.positions_of(mask), keep=keep, tokens=tokens, use_cache=False
            )
        return out.logits[:, -keep:]

    def _packed_logits(self, interaction, embeds, mask, keep: int, tokens) -> torch.Tensor:
        """As :meth:`_logits`, in one sequence per candidate list (:mod:`recbole_llm.llm.packing`)."""
        packing = Packing.of(mask, interaction[LIST_FIELD], interaction[SHARED_FIELD])
        self._check_tree(packing.positions.shape[1])
        embeds = causal_lm.cast(self.llm, packing.embeddings(embeds))
        gate = self.gate(interaction)
        with nullcontext() if gate is None else use_gate(self.llm, packing.gate(gate)):
            out = causal_lm.forward(
                self.llm, embeds, packing.mask(embeds.dtype), packing.positions, keep=embeds.shape[1], tokens=tokens, use_cache=False
            )
        return packing.gather(out.logits, slice(-keep, None))

    def _check_tree(self, length: int) -> None:
        method, reason = branch_forward.choose_scorer(self.llm, length)
        if method != "tree":
            raise ValueError(f"users_per_list: rows cannot share this LLM's forward pass ({reason}); set users_per_list: 1")

    def weight(self, interaction: Interaction) -> torch.Tensor:
        """``[B]``: how much each row counts in the loss, here its answer's tokens; the trainer divides by the sum of a step's."""
        return interaction["answer_mask"].sum(1)

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """The mean loss per unit of weight, as RecBole's trainer asks for it."""
        log_likelihood, weight = self(interaction)
        return -log_likelihood.sum() / weight.sum()

    def _projector(self, table: torch.Tensor, hidden: int, out_std: float, centred: bool = True) -> Projector:
        return Projector(table, hidden, out_std * self.config["slot_scale"], self.config["projector_form"], centred)

    def _templates(self) -> list[str]:
        return prompt.with_words(self.head.templates(self.config), self.config["prompt_words"])

    @torch.no_grad()
    def _user_sample(self, dataset) -> torch.Tensor:
        """User vectors of up to 1,024 training rows, for the user projector's fixed scale."""
        return self.crm.user_vectors(dataset.inter_feat[:1024].to(self.crm.item_vectors.device)).cpu()
