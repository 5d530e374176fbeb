"""A frozen CRM and what an LLM recommender reads of it, without gradient and with dropout off.

Its *item vectors* become behaviour tokens (LLaRA, section 3.2); its *user vector*, the sequence representation, feeds the
gate (iLoRA, section 4.2). Any sequential model of RecBole that has an item embedding and ``forward(item_seq, item_seq_len)``
will do, for models that say so (`crm_kinds`) general ones with user and item embeddings too.
"""

from __future__ import annotations

import inspect

import torch
from recbole.utils import ModelType
from torch import nn

from recbole_llm.crm.rated_din import ratings_of

TARGET, RATINGS = "target", "ratings"
_FINAL_LAYERS = ("dnn_predict_layers", "dnn_predict_layer")  # of DIN, of DIEN


class CRM(nn.Module):
    """A frozen recommender.

    Args:
        model: a trained model of RecBole.
        sha256: of its weights.
        seconds: wall time of its training.
        tables: of a general model, user and item embeddings as a file holds them; without it they are read from `model`.

    Raises:
        ValueError: the model has no item vectors, or needs more than the history to make a user vector.

    Attributes:
        name: RecBole's model name.
        sha256: of its weights (names, shapes, values), wherever they are kept; of RecBole's `.pth`, of the file.
        item_vectors: ``[item_num, d]`` buffer, the item embedding table (row 0 is padding).
        seconds: wall time of its training, also where it was read from the cache (of a file given
            as `crm_path`: what the `.json` beside it says, else 0).
    """

    def __init__(self, model: nn.Module, sha256: str, seconds: float = 0.0, tables: dict | None = None):
        super().__init__()
        self.name, self.sha256, self.seconds = type(model).__name__, sha256, seconds
        self.model = model.requires_grad_(False)
        self.eval()
        self.general = model.type == ModelType.GENERAL
        self.target_aware = False
        if self.general:
            tables = tables or general_tables(model)
            self.register_buffer("user_table", tables["user"].detach().float(), persistent=False)
            self.register_buffer("item_vectors", tables["item"].detach()[: model.n_items].float(), persistent=False)
            return
        vectors = _item_vectors(model)
        n_items = model.n_items  # BERT4Rec's table has one more row, for its mask token
        known = {"item_seq": "ITEM_SEQ", "item_seq_len": "ITEM_SEQ_LEN", "user": "USER_ID"}
        known |= {"seq_item": "ITEM_SEQ", "seq_item_len": "ITEM_SEQ_LEN"}  # SHAN, HGN, NPE write it the other way round
        known |= {"next_items": TARGET, "neg_item_seq": "ITEM_SEQ"}  # DIN, DIEN; DIEN's negatives serve its loss alone
        known["history_ratings"] = RATINGS  # RatedDIN
        names = list(inspect.signature(model.forward).parameters)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"crm_model={self.name}: forward({', '.join(names)}) needs {unknown} besides the history; choose a model "
                "with forward(item_seq, item_seq_len), such as SASRec, GRU4Rec or NARM"
            )
        self._forward_fields = [known[name] for name in names]
        self.target_aware = TARGET in self._forward_fields
        self.register_buffer("item_vectors", vectors.detach()[:n_items].float(), persistent=False)

    def train(self, mode: bool = True):
        """Stay in evaluation mode: dropout in a frozen model would only add noise to the gate."""
        return super().train(False)

    @property
    def dim(self) -> int:
        return self.item_vectors.shape[1]

    @torch.no_grad()
    def user_vectors(self, interaction, target: torch.Tensor | None = None) -> torch.Tensor:
        """The user vectors of a batch.

        Args:
            interaction: rows with users and histories, B of them.
            target: ``[B]`` item ids, which a target-aware CRM (DIN, DIEN) reads as its query; without it the history's
                last item is the query, so that the vector depends on the user alone.

        Returns:
            ``[B, d_u]``: the sequence representation; of a target-aware CRM the vector before its final layer, of a
            general model (BPR, LightGCN) the user's embedding.
        """
        if self.general:
            return self.user_table[interaction[self.model.USER_ID]]
        if self.target_aware:
            return self._target_aware_vectors(interaction, target)
        if self.name == "BERT4Rec":  # reads the state of a mask token put behind the last item (the first item is cut off)
            lengths = interaction[self.model.ITEM_SEQ_LEN]
            sequences = self.model.reconstruct_test_data(interaction[self.model.ITEM_SEQ], lengths)
            states = self.model.forward(sequences)  # [B, L, d]
            return states[torch.arange(len(states), device=states.device), lengths - 1].float()
        return self.model.forward(*(interaction[getattr(self.model, field)] for field in self._forward_fields)).float()

    def _target_aware_vectors(self, interaction, target) -> torch.Tensor:
        model, sequences = self.model, interaction[self.model.ITEM_SEQ]
        lengths = interaction[model.ITEM_SEQ_LEN].clamp_min(1)
        if target is None:
            target = sequences.gather(1, lengths[:, None] - 1).squeeze(1)
        given = {"USER_ID": interaction[model.USER_ID], "ITEM_SEQ": sequences, "ITEM_SEQ_LEN": lengths, TARGET: target}
        given[RATINGS] = ratings_of(interaction, model.ITEM_SEQ)
        seen: list[torch.Tensor] = []
        final = next(getattr(model, name) for name in _FINAL_LAYERS if hasattr(model, name))
        hook = final.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            model.forward(*(given[field] for field in self._forward_fields))
        finally:
            hook.remove()
        return seen[-1].float()

    @torch.no_grad()
    def user_dim(self, dataset) -> int:
        """Width of the user vector, found by asking for one."""
        row = dataset.inter_feat[:1].to(next(self.model.parameters()).device)
        return self.user_vectors(row).shape[1]


@torch.no_grad()
def general_tables(model: nn.Module) -> dict[str, torch.Tensor]:
    """User and item embeddings ``[n, d]`` of a general model: after its propagation where ``forward()`` gives both (LightGCN), else its tables.

    Raises:
        ValueError: the model has neither.
    """
    if not inspect.signature(model.forward).parameters:
        users, items = model.forward()[:2]
        return {"user": users, "item": items}
    tables = {name: getattr(model, f"{name}_embedding", None) for name in ("user", "item")}
    if not all(isinstance(table, nn.Embedding) for table in tables.values()):
        raise ValueError(f"crm_model={type(model).__name__} has no user and item embeddings to show; choose BPR, LightGCN or NGCF")
    return {name: table.weight for name, table in tables.items()}


def _item_vectors(model: nn.Module) -> torch.Tensor:
    """The item id embedding table ``[>= item_num, d]`` of a sequential model.

    Raises:
        ValueError: the model has none.
    """
    if isinstance(getattr(model, "item_embedding", None), nn.Embedding):
        return model.item_embedding.weight
    features = getattr(model, "embedding_layer", None)
    names = (getattr(features, "token_field_names", None) or {}).get("item", [])
    if model.ITEM_ID in names:  # one table for all of an item's features; its id is one of them
        start = int(features.token_field_offsets["item"][names.index(model.ITEM_ID)])
        return features.token_embedding_table["item"].embedding.weight[start:]
    raise ValueError(
        f"crm_model={type(model).__name__} has no `item_embedding` table to take behaviour tokens from; "
        "choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN, DIEN or another sequential model that has one"
    )
