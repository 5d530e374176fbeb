"""Slots: the projector that pretraining leaves behind, and embeddings put where the slots are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_llm.builtin import slots
from recbole_llm.builtin.slots import Projector, Projectors


@pytest.fixture
def projectors():
    torch.manual_seed(0)
    return Projectors(16, 0.7 * torch.eye(16)[0], torch.eye(16)[1:9], 2.0, copies=1)


@pytest.mark.parametrize("d", [32, 64, 128])
def test_saved_projector_is_the_trained_one(projectors, tmp_path, d):
    slots.save_projectors(projectors, tmp_path)
    sequential = nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, 16))
    sequential.load_state_dict(slots.pretrained_projector(tmp_path, d))
    vectors = torch.randn(7, d)
    torch.testing.assert_close(sequential(vectors), projectors(vectors, 0))


def test_widths_between_and_beyond(projectors, tmp_path):
    slots.save_projectors(projectors, tmp_path)
    assert slots.pretrained_projector(tmp_path, 50)["0.weight"].shape == (16, 50)
    assert slots.pretrained_projector(tmp_path, 129) is None
    assert slots.pretrained_projector(tmp_path / "nowhere", 64) is None


def test_start_keeps_the_marker_and_the_space():
    torch.manual_seed(1)
    marker, space = 0.7 * torch.eye(16)[0], torch.eye(16)[1:9]
    out = Projector(64, 16, marker, space, length=3.0)(torch.randn(200, 64)).detach()
    torch.testing.assert_close(out[:, 0], torch.full((200,), 0.7))
    assert out[:, 9:].abs().max() < 1e-6
    assert 2.4 < out[:, 1:].norm(dim=1).mean() < 3.75


def test_start_keeps_inner_products():
    torch.manual_seed(2)
    space = torch.linalg.qr(torch.randn(80, 80)).Q[:64]
    vectors = torch.randn(50, 64)
    out = Projector(64, 140, 0.7 * torch.zeros(140), torch.nn.functional.pad(space, (0, 60)))(vectors)
    gram, scale = vectors @ vectors.T, (out @ out.T).trace() / (vectors @ vectors.T).trace()
    torch.testing.assert_close(out @ out.T, scale * gram, rtol=1e-4, atol=1e-4)


def test_embed_puts_rows_where_slots_are():
    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def get_input_embeddings(self):
            return self.table

    host, rows = Host(), torch.arange(6.0).reshape(2, 3)
    ids, where = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 2, 1]])
    out = slots.embed(host, ids, where, rows)
    torch.testing.assert_close(out[0, 1:], rows[[1, 0]])
    torch.testing.assert_close(out[0, 0], host.table.weight[1])
    torch.testing.assert_close(slots.embed(host, ids, 0 * where, rows[:0]), host.table(ids))
