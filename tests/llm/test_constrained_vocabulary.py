"""Rivals against a tree of tokens built with dictionaries, and the sum rule of a constrained likelihood."""

import torch

from recbole_llm.llm import constrained_vocabulary

ROWS = [
    [[5, 1], [5, 6, 1], [5, 6, 7, 1], [8, 1]],  # a title inside a title, twice
    [[5, 6, 1], [5, 6, 1], [5, 9, 1], [7, 1]],  # two items of one title
]


def padded(rows, fill=0):
    width = max(len(branch) for row in rows for branch in row)
    ids = torch.tensor([[branch + [fill] * (width - len(branch)) for branch in row] for row in rows])
    mask = torch.tensor([[[True] * len(branch) + [False] * (width - len(branch)) for branch in row] for row in rows])
    return ids, mask


def continuations(row, prefix):
    return sorted({branch[len(prefix)] for branch in row if len(branch) > len(prefix) and branch[: len(prefix)] == prefix})


def test_rivals_are_the_children_of_each_node():
    ids, mask = constrained_vocabulary.rivals(*padded(ROWS, fill=3))
    for b, row in enumerate(ROWS):
        for i, branch in enumerate(row):
            for t in range(ids.shape[2]):
                found = ids[b, i, t][mask[b, i, t]].tolist()
                expected = continuations(row, branch[:t]) if t < len(branch) else []
                assert sorted(found) == expected, (b, i, t)  # as lists: each once


def test_the_last_choice_is_the_last_token_with_a_rival():
    _, mask = constrained_vocabulary.rivals(*padded(ROWS))
    assert constrained_vocabulary.until_last_choice(mask).sum(2).tolist() == [[2, 3, 3, 1], [2, 2, 2, 1]]
    _, alone = constrained_vocabulary.rivals(*padded([[[5, 6, 1]], [[7, 1, 0]]]))
    assert constrained_vocabulary.until_last_choice(alone).tolist() == [[[True, False, False]]] * 2  # no choice at all: the first stays
    later = torch.tensor([[[True, False], [True, True], [True, False]]])  # a choice behind a token without one
    assert constrained_vocabulary.until_last_choice(later).tolist() == [[True, True, False]]


def test_log_probs_of_a_set_sum_to_one_and_equal_the_tree_walk():
    logits = torch.randn(2, 4, 4, 12, generator=torch.Generator().manual_seed(0))
    for row in ROWS:  # logits are a function of the prefix, as a model's are
        for i, branch in enumerate(row):
            for j, other in enumerate(row[:i]):
                for t in range(min(len(branch), len(other))):
                    if branch[:t] == other[:t]:
                        logits[ROWS.index(row), i, t] = logits[ROWS.index(row), j, t]
    ids, mask = padded(ROWS)
    among = constrained_vocabulary.rivals(ids, mask)
    found = constrained_vocabulary.log_probs(logits.flatten(0, 1), ids.flatten(0, 1), *(part.flatten(0, 1) for part in among))
    found = found.view(2, 4, 4)
    assert (found[~mask] == 0).all()
    for b, row in enumerate(ROWS):
        for i, branch in enumerate(row):
            for t, token in enumerate(branch):
                children = continuations(row, branch[:t])
                expected = logits[b, i, t, children].log_softmax(0)[children.index(token)]
                torch.testing.assert_close(found[b, i, t], expected)
    total = found.sum(2).exp()
    torch.testing.assert_close(total[0].sum(), torch.tensor(1.0))
    assert torch.equal(total[1, 0], total[1, 1])
    torch.testing.assert_close(total[1, 1:].sum(), torch.tensor(1.0))  # the shared title once


def test_one_position_serves_all_labels_and_padding_has_a_finite_gradient():
    ids, mask = padded(ROWS)
    among = constrained_vocabulary.rivals(ids, mask)
    logits = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    first = constrained_vocabulary.log_probs(logits, ids[:, :, 0], *(part[:, :, 0] for part in among))
    assert first.shape == (2, 4)
    torch.testing.assert_close(first[0, :3], first[0, :1].expand(3))  # the same first token
    last = constrained_vocabulary.log_probs(logits, ids[:, :, -1], *(part[:, :, -1] for part in among))  # mostly padding
    (first.sum() + last.sum()).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


def test_few_tokens_hold_labels_and_rivals_and_give_the_vocabularys_log_probs():
    ids, mask = padded(ROWS, fill=3)
    among = constrained_vocabulary.rivals(ids, mask)
    logits = torch.randn(2, 4, 4, 12, generator=torch.Generator().manual_seed(2))
    few = constrained_vocabulary.Among.of(ids, *among)
    assert few.tokens.tolist() == [0, 1, 3, 5, 6, 7, 8, 9]  # 0 stands for a rival that is none, 3 is padding
    assert torch.equal(few.tokens[few.labels], ids) and torch.equal(few.tokens[few.ids], among[0])
    assert torch.equal(few.log_probs(logits[..., few.tokens]), constrained_vocabulary.log_probs(logits, ids, *among))
    one = few.apply(lambda part: part[1, :, 0])
    assert torch.equal(one.log_probs(logits[1, :, 0][..., few.tokens]), constrained_vocabulary.log_probs(logits, ids, *among)[1, :, 0])
