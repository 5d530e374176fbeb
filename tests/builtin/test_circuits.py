"""The structured start, untrained: each head looks where :mod:`recbole_llm.builtin.circuits` says, and rests elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_llm.builtin import build, circuits, layout, openers, pretrain, probe, slots
from recbole_llm.builtin.pretrain import Pretraining
from tests.builtin.test_pretrain import MICRO


@pytest.mark.parametrize("size", ["base", "large"])
def test_structured_start_finds_the_shown_vector(tokenizer, size):
    """Untrained: the taste head reads the shown slot, and a match head prefers the candidate with the same vector."""
    run = Pretraining(replace(MICRO, size=size), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    generator, found, looked = run.generator, [], []
    batch = generator.batch(pretrain.Plan(items=(5, 5), questions=1).only("lookup"), 900)
    projected = run.projectors(torch.as_tensor(batch.vectors), 0)
    embedded = slots.embed(run.model, torch.as_tensor(batch.ids), torch.as_tensor(batch.slots), projected)
    with torch.no_grad():
        attentions = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions
    for row in range(len(batch.ids)):
        start = int(np.argmax(batch.answers[row] > 0))
        where = np.flatnonzero(batch.slots[row, :start])
        candidates = attentions[3][row, 0, start - 1, where[1:]]
        right = batch.slots[row, where[1:]] == batch.slots[row, where[0]]
        found.append(bool(right[int(candidates.argmax())]))
        looked.append(float(attentions[2][row, 0, start - 1, where[0]]))
    assert np.mean(looked) > 0.6
    assert np.mean(found) > 0.7  # chance .2


def test_slots_gather_how_titles_begin_whatever_their_length(tokenizer):
    """Untrained, layer 1: head 3 of a slot looks at the first piece of the title before it, head 4 at the second.

    Also where a comma stands within the title, and in the first of a list of candidates.
    """
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    rng, ids, slot, starts = np.random.default_rng(0), [tokenizer.bos_token_id, 900, 901], [0, 0, 0], []
    comma, stop, colon = (tokenizer.convert_tokens_to_ids(mark) for mark in (",", ".", ":"))
    pieces = sorted(set(range(600, 3000)) - set(openers.flag_tokens(tokenizer)))
    for length in (3, 12, 6, 18, 2, 9, 15, 5, 20, 4):
        if len(starts) == 7:
            ids[-1], asked = stop, [openers.flag_tokens(tokenizer)[0], *rng.choice(pieces, 7).tolist(), colon]
            ids, slot = ids + asked, slot + [0] * len(asked)
        starts.append((len(ids), len(ids) + length))
        title = rng.choice(pieces, length).tolist()
        if length >= 12:
            title[-2] = comma
        ids, slot = ids + [*title, 0, comma], slot + [0] * length + [len(starts), 0]
    vectors = torch.randn(len(starts), 64, generator=torch.Generator().manual_seed(0))
    embedded = slots.embed(run.model, torch.tensor([ids]), torch.tensor([slot]), run.projectors(vectors, 0))
    with torch.no_grad():
        attention = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions[1][0]
    for first, end in starts[1:]:  # before the first title stands no slot that would tell where it begins
        assert attention[3, end, first] > 0.5 and attention[4, end, first + 1] > 0.4, (first, end)


@pytest.mark.parametrize("user", [True, False])
def test_the_taste_is_the_historys_and_the_users_where_its_slot_stands_first(tokenizer, user):
    """Untrained, layer 2 of the last token: head 0 on the history's slots, head 2 on the user's or on the first token."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    ids, slot = [tokenizer.bos_token_id, 0 if user else 900, 901], [0, 1 if user else 0, 0]
    comma = tokenizer.convert_tokens_to_ids(",")
    for number in (2, 3, 4):
        ids, slot = ids + [700 + number, 800 + number, 0, comma], slot + [0, 0, number, 0]
    vectors = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    embedded = slots.embed(run.model, torch.tensor([ids]), torch.tensor([slot]), run.projectors(vectors, 0))
    with torch.no_grad():
        history, users = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions[2][0, [0, 2], -1]
    assert history[[place for place, number in enumerate(slot) if number > 1]].sum() > 0.9
    assert users[1 if user else 0] > 0.9


def test_older_items_weigh_less_by_their_number_not_by_their_titles_length(tokenizer):
    """Untrained, layer 2, head 0 of the last token: each item about .6 of the next one; candidates nothing."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    rng, ids, slot = np.random.default_rng(0), [tokenizer.bos_token_id, 900, 901], [0, 0, 0]
    comma, colon = (tokenizer.convert_tokens_to_ids(mark) for mark in (",", ":"))
    pieces = sorted(set(range(600, 3000)) - set(openers.flag_tokens(tokenizer)))
    lengths = [3, 14, 2, 9, 20, 4, 6]
    for number, length in enumerate(lengths + [5] * 20, start=1):
        if number == len(lengths) + 1:
            ids, slot = ids + [openers.flag_tokens(tokenizer)[0], colon], slot + [0, 0]
        ids, slot = ids + [*rng.choice(pieces, length).tolist(), 0, comma], slot + [0] * length + [number, 0]
    ids, slot = ids + [902, colon], slot + [0, 0]
    vectors = torch.randn(len(lengths) + 20, 64, generator=torch.Generator().manual_seed(0))
    vectors *= 8 / vectors.norm(dim=1, keepdim=True)
    embedded = slots.embed(run.model, torch.tensor([ids]), torch.tensor([slot]), run.projectors(vectors, 0))
    with torch.no_grad():
        attention = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions[2][0, 0, -1]
    shown = attention[[place for place, number in enumerate(slot) if 0 < number <= len(lengths)]]
    assert shown.sum() > 0.99
    ratios = shown[:-1] / shown[1:]
    assert ratios.min() > 0.4 and ratios.max() < 0.8, ratios  # by distance in tokens: .29 to .89


@pytest.mark.parametrize("seen", [" The River", " The Theater 3000: River"])
def test_titles_that_begin_alike_are_told_apart_by_their_vectors(tokenizer, seen):
    """Untrained: after a first piece that three of four candidates share comes the second piece of the one like the history.

    Also where a title of the history has a colon behind a digit, as where titles are found by number.
    """
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    comma, colon, the = (tokenizer.convert_tokens_to_ids(token) for token in (",", ":", "ĠThe"))
    watched, found = tokenizer(seen, add_special_tokens=False)["input_ids"], []
    for draw in range(12):
        vectors = torch.randn(5, 64, generator=torch.Generator().manual_seed(draw))
        right = 1 + draw % 3
        vectors[4] = 0.45 * vectors[right] + 0.9 * vectors[4]  # the history's: alike, not the same
        ids, slot = [tokenizer.bos_token_id, 900, *watched, 0, comma], [0] * (len(watched) + 2) + [5, 0]
        ids, slot = ids + [openers.flag_tokens(tokenizer)[0], colon], slot + [0, 0]
        for number, (first, second) in enumerate(((701, 801), (the, 802), (the, 803), (the, 804)), start=1):
            ids, slot = ids + [first, second, 0, comma], slot + [0, 0, number, 0]
        ids, slot = ids + [902, colon, the], slot + [0, 0, 0]
        embedded = slots.embed(run.model, torch.tensor([ids]), torch.tensor([slot]), run.projectors(vectors, 0))
        with torch.no_grad():
            found.append(int(run.model(inputs_embeds=embedded).logits[0, -1, [801, 802, 803, 804, watched[-1]]].argmax()) == right)
    assert np.mean(found) >= 0.9, found  # chance .25


def test_yes_or_no_is_the_vectors_affair_not_the_titles(tokenizer):
    """Untrained: the vector of the item asked about moves the answer, its title hardly; no piece speaks for yes or no."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    comma, colon = (tokenizer.convert_tokens_to_ids(mark) for mark in (",", ":"))
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("ĠYes", "ĠNo"))
    asked, rng, ids, slot = openers.flag_tokens(tokenizer)[0], np.random.default_rng(0), [tokenizer.bos_token_id, 900], [0, 0]
    pieces = sorted(set(range(600, 3000)) - set(openers.flag_tokens(tokenizer)) - {yes, no})
    vectors = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    vectors[1:5] = vectors[0] + 0.3 * vectors[1:5]
    vectors[5:] += torch.linspace(-1, 1, 5)[:, None] * vectors[0]  # from unlike to like the history
    for number in (1, 2, 3, 4):
        ids, slot = ids + [*rng.choice(pieces, 4).tolist(), 0, comma], slot + [0] * 4 + [number, 0]
    titles = rng.choice(pieces, (6, 4)).tolist()
    said = torch.zeros(len(titles), 5)
    for i, title in enumerate(titles):
        rows = torch.tensor([[*ids, asked, *title, 0, 905, colon]] * 5)
        slotted = torch.tensor([[*slot, 0, 0, 0, 0, 0, number, 0, 0] for number in range(6, 11)])
        embedded = slots.embed(run.model, rows, slotted, run.projectors(vectors, 0))
        with torch.no_grad():
            logits = run.model(inputs_embeds=embedded).logits[:, -1]
        said[i] = logits[:, yes] - logits[:, no]
    assert (said.diff(dim=1).mean(0) > 0).all() and said[:, -1].min() > 0 > said[:, 0].max(), said
    assert said.std(0).max() < 0.15 * said.mean(0).std(), said
    words = run.model.get_input_embeddings().weight
    spoken = (words @ (words[yes] - words[no]))[pieces]
    assert spoken.abs().max() < 1e-4 * (words[yes] - words[no]).square().sum()


def test_a_longer_residual_stream_computes_the_same(tokenizer, monkeypatch):
    ids, found = torch.tensor([[tokenizer.bos_token_id, *range(600, 640)]]), []
    for length in (1.0, circuits.LENGTH):
        monkeypatch.setattr(circuits, "LENGTH", length)
        with torch.no_grad():
            found.append(build.build_model("tiny", tokenizer, 0)(ids).logits)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-2)  # scores of some hundreds round in float32
    assert found[0].std() > 0.1


@pytest.mark.parametrize("size", build.SIZES)
def test_the_spaces_of_the_start_do_not_overlap(size):
    """Who writes in one space is not heard in another; second pieces come back as they went in, and say neither yes nor no."""
    shape = build.SIZES[size]
    plan = layout.Layout(shape["hidden_size"], shape["head_dim"], 0)
    signs = torch.stack([plan.slot_axis, plan.flag, plan.word, plan.start, plan.opening, plan.mark, plan.candidate,
                         plan.following, plan.text, plan.user, plan.index, plan.end])
    spaces = [signs, plan.token, plan.second, plan.previous, plan.vector]
    for i, one in enumerate(spaces):
        for other in spaces[i + 1 :]:
            assert (one @ other.T).abs().max() < 1e-5
    back = plan.second @ plan.second.T  # what is stored of a piece, read again: a projection that leaves `answer` out
    torch.testing.assert_close(back @ back, back, rtol=0, atol=1e-5)
    assert back.trace() > 0.4 * (plan.token @ plan.token.T).trace() and (back @ plan.token @ plan.answer).abs().max() < 1e-5


def test_structured_start_copies_by_two_tokens(tokenizer):
    """Untrained: after "a b" comes what came after "a b" before, not what came after another "b"."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    a, b, c, d, e, f = range(600, 606)
    ids = torch.tensor([[tokenizer.bos_token_id, a, b, c, d, b, e, f, a, b]])
    with torch.no_grad():
        logits = run.model(ids).logits[0, -1]
    assert logits[c] > logits[e] + 2 and logits[c] > logits[[a, b, d, f]].max()


@pytest.mark.parametrize("slotted", [True, False])
def test_structured_start_goes_on_with_a_list(tokenizer, slotted):
    """Untrained: after the end of a title comes the one behind it, whether slots stand between them or not."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    comma, colon = (tokenizer.convert_tokens_to_ids(mark) for mark in (",", ":"))
    titles = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:30].view(10, 3) + 600
    ids, slot = [tokenizer.bos_token_id, 900], [0, 0]
    for number, title in enumerate(titles.tolist(), start=1):
        ids, slot = ids + title, slot + [0] * 3
        if slotted:
            ids, slot = [*ids, 0], [*slot, number]
        ids, slot = [*ids, comma], [*slot, 0]
    ids, slot = [*ids, 901, colon], [*slot, 0, 0]
    vectors, right = torch.randn(10, 64, generator=torch.Generator().manual_seed(0)), []
    for i, title in enumerate(titles[:-1].tolist()):
        ids, slot = [*ids, *title, tokenizer.eos_token_id], [*slot, 0, 0, 0, 0]
        embedded = slots.embed(run.model, torch.tensor([ids]), torch.tensor([slot]), run.projectors(vectors, 0))
        with torch.no_grad():
            right.append(int(run.model(inputs_embeds=embedded).logits[0, -1, titles[:, 0]].argmax()) == i + 1)
    assert np.mean(right) > 0.8, right  # chance .1


def test_structured_start_finds_the_title_behind_a_number(tokenizer):
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    listed = " 1 Alpha River, 2 Stone Garden, 3 Quiet Moon, 4 Paper Kings, 5 Winter Road, 6 Glass Island"
    firsts, found = [tokenizer(f" {title.split()[1]}")["input_ids"][0] for title in listed.split(",")], []
    for i in range(6):
        ids = tokenizer(f"Titles:{listed}. Number {i + 1}:", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = run.model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, -1]
        found.append(int(logits[firsts].argmax()))
    assert found == list(range(6))


def test_heads_for_lists_rest_where_vectors_decide(tokenizer):
    """Untrained, layer 2, heads 3 and 4: they look at the first token from slots and where a title is to be chosen."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    batch = run.generator.batch(replace(probe.HARD, questions=1).only("history"), 3000)
    projected = run.projectors(torch.as_tensor(batch.vectors), 0)
    embedded = slots.embed(run.model, torch.as_tensor(batch.ids), torch.as_tensor(batch.slots), projected)
    with torch.no_grad():
        attention = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions[2][:, 3:5, :, 0]
    chosen = torch.as_tensor((batch.answers[:, 1:] > 0) & (batch.answers[:, :-1] == 0))
    resting = attention.transpose(1, 2)  # [rows, tokens, heads]
    assert resting[torch.as_tensor(batch.slots) > 0].min() > 0.9 and resting[:, :-1][chosen].min() > 0.9


def test_a_choice_stays_open_where_no_slot_stands(tokenizer):
    """Untrained: a title among 20 costs what chance costs, ln 20 nats, also where titles hold digits and colons."""
    run, nats = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer), []
    generator = probe.held_out(tokenizer)
    for _ in range(2):
        batch = generator.batch(probe.HARD.only("words"), 4000)
        with torch.no_grad():
            logits, targets, rivals, numbers = probe.forward(run.model, run.projectors, batch, 0, run.device)
        each = pretrain.log_probs(logits, targets, rivals.clamp_min(0), rivals >= 0)
        nats += [-float(each[numbers == number].sum()) for number in numbers.unique()]
    assert np.mean(nats) < np.log(20) + 0.3, np.mean(nats)  # 4.5 where a head for lists did not rest


def test_a_start_without_room_for_its_heads_is_refused(tokenizer, monkeypatch):
    monkeypatch.setitem(build.SIZES, "tiny", build.SIZES["tiny"] | {"num_hidden_layers": 4})
    with pytest.raises(ValueError, match="5 layers of 5 heads, not 4 of 5"):
        build.build_model("tiny", tokenizer, 0)
    assert build.build_model("tiny", tokenizer, 0, structured=False).config.num_hidden_layers == 4
