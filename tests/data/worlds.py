"""Made-up users, histories and rows, and the candidates drawn for them."""

import numpy as np
from hypothesis import strategies as st

from recbole_llm.data.candidates import build_candidate_set


def catalogue_of(n_items: int) -> np.ndarray:
    return np.sort(np.array([f"item {i}" for i in range(n_items)]))


@st.composite
def worlds(draw):
    """(catalogue, histories, rows): up to 8 users with histories that leave at least C-1 items unseen, and C."""
    n_candidates = draw(st.integers(2, 8))
    n_items = draw(st.integers(n_candidates + 1, 40))
    names = st.text(min_size=1, max_size=6).filter(lambda text: "\0" not in text)
    users = draw(st.lists(names, min_size=1, unique=True, max_size=8))
    histories, rows = {}, ([], [])
    catalogue = catalogue_of(n_items)
    for user in users:
        most = n_items - n_candidates + 1
        seen = draw(st.sets(st.integers(0, n_items - 1), min_size=1, max_size=most))
        histories[user] = np.array(sorted(seen), dtype=np.int32)
        for target in draw(st.lists(st.sampled_from(sorted(seen)), min_size=1, max_size=3)):
            rows[0].append(user)
            rows[1].append(str(catalogue[target]))
    return catalogue, histories, rows, n_candidates


def build(world, seed=1, phase="test", epoch=None, rows=None):
    catalogue, histories, default, width = world
    return build_candidate_set(rows or default, histories, catalogue, width, seed, phase, epoch)
