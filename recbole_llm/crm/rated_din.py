"""RecBole's DIN with two inputs more: ratings of the history, and user fields (Zhou et al., KDD 2018; RecLoRA, arXiv 2408.03533).

RecBole's DIN reads item ids and item fields; user fields are embedded but do not enter its network, and a history is items alone. In RecLoRA's
released code an item of the history is its embedding beside that of its rating, mapped back by a linear layer and a ReLU before the attention,
and the last layers read all user and item fields. Both are added here to RecBole's layers, which are otherwise as they are.

Differences from that code: an item of the history has its fields too, not its id alone; the last layers also read the product of interest and
target, as RecBole's do.
"""

from __future__ import annotations

import torch
from recbole.model.layers import MLPLayers
from recbole.model.sequential_recommender.din import DIN
from recbole.utils import FeatureType
from torch import nn

from recbole_llm import registry
from recbole_llm.data.click.rows import rating_values
from recbole_llm.data.click.timelines import HISTORY_RATINGS


class RatedDIN(DIN):
    """DIN under `protocol: ctr`, whose histories carry ratings: column `history_ratings` [B, L], places among the data's values from 1, 0 for none."""

    reads_labels = gives_probabilities = reads_ratings = True

    @classmethod
    def check_config(cls, final) -> list[str]:
        """Lines for a protocol without labelled rows; `final` is the merged configuration."""
        name = final.get("protocol")
        wrong = name is not None and not registry.is_protocol(name)  # which has a line of its own
        if wrong or registry.protocol(name).labelled:
            return []
        return [f"model: RatedDIN learns from labelled rows and the ratings of histories, of which protocol: {name} has none; choose DIN, or "
                "protocol: ctr"]  # fmt: skip

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        item_width = self.dnn_list[0] // 3
        self.rating_embedding = nn.Embedding(len(rating_values(config)) + 1, self.embedding_size, padding_idx=0)
        self.history_mapping = nn.Sequential(nn.Linear(item_width + self.embedding_size, item_width), nn.ReLU())
        self.dnn_list[0] += _n_embedded(self.user_feat, dataset, config) * self.embedding_size
        self.dnn_mlp_layers = MLPLayers(self.dnn_list, activation="Dice", dropout=self.dropout_prob, bn=True)
        for new in (self.rating_embedding, self.history_mapping, self.dnn_mlp_layers):
            new.apply(self._init_weights)
        with torch.no_grad():
            self.rating_embedding.weight[0] = 0

    def forward(self, user, item_seq, item_seq_len, next_items, history_ratings):
        """Logits ``[B]`` of users ``[B]`` liking ``next_items [B]`` after ``item_seq [B, L]``."""
        features = self.embedding_layer(user, torch.cat((item_seq, next_items[:, None]), dim=1))  # ids, then numbers
        users, items = (
            torch.cat([part[side] for part in features if part[side] is not None], dim=-2).flatten(-2) for side in self.types
        )  # [B, d_u] and [B, L + 1, d_i]
        history, target = items[:, :-1], items[:, -1]
        history = self.history_mapping(torch.cat((history, self.rating_embedding(history_ratings)), dim=-1))
        interest = self.attention(target, history, item_seq_len).squeeze(1)  # [B, d_i]
        read = torch.cat((interest, target, interest * target, users.flatten(1)), dim=-1)
        return self.dnn_predict_layers(self.dnn_mlp_layers(read)).squeeze(1)

    def calculate_loss(self, interaction):
        """The loss of a batch.

        Raises:
            ValueError: its histories carry no ratings.
        """
        if HISTORY_RATINGS not in interaction:
            raise ValueError("RatedDIN: training rows without ratings of their histories, which run_recbole_llm prepares and RecBole's own "
                             "run_recbole does not; call run_recbole_llm, or choose DIN")  # fmt: skip
        return self.loss(self._logits(interaction), interaction[self.LABEL_FIELD])

    def predict(self, interaction):
        return self.sigmoid(self._logits(interaction))

    def _logits(self, interaction):
        names = (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID)
        return self.forward(*(interaction[name] for name in names), ratings_of(interaction, self.ITEM_SEQ))


def ratings_of(interaction, item_seq: str) -> torch.Tensor:
    """``[B, L]``: the ratings of a batch's histories; none where nobody knows them (a history typed by hand)."""
    return interaction[HISTORY_RATINGS] if HISTORY_RATINGS in interaction else torch.zeros_like(interaction[item_seq])


def _n_embedded(features, dataset, config) -> int:
    """How many of these fields RecBole embeds: numbers only where `numerical_features` names them."""
    numbers = (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
    return sum(dataset.field2type[name] not in numbers or name in config["numerical_features"] for name in features.columns)
