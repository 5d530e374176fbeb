"""Generators come back as they were."""

import random

import numpy as np
import torch

from recbole_llm.training.optimizer_state import restore_rng, rng_tensors


def test_generator_states_come_back():
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    random.gauss(0, 1), np.random.randn()
    kept = rng_tensors()
    drawn = random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist()
    restore_rng(kept)
    assert drawn == (random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist())
