"""What a row of RecLoRA's prompt and gate may read: what lies before its moment, and never its own label."""

import numpy as np
import pytest
import torch

from recbole_llm import LLMConfig
from recbole_llm.data.click.questions import ClickRows, Question
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.model.pointwise import _one_item_per_row
from recbole_llm.model.reclora import RecLoRA
from tests import tiny
from tests.model.reclora import SMALL, prepared


def write(folder, lines, name="tiny"):
    """A copy of the tiny dataset whose interactions are `lines`."""
    tiny.write_dataset(folder, name)
    file = folder / name / f"{name}.inter"
    head = file.read_text().splitlines()[0]
    file.write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def tied_lines():
    """Interactions in pairs of one moment, shuffled."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(12):
        items = rng.choice(60, size=10, replace=False)
        lines += [f"u{user}\ti{item}\t{rng.integers(1, 6)}\t{1000 + step // 2}" for step, item in enumerate(items)]
    return [lines[i] for i in rng.permutation(len(lines))]


def prompts(config, split):
    """{(user, item): (prompt ids, the CRM's history)} of all rows of a split, whatever phase it is."""
    rows = ClickRows(config, split, training=True)
    text, long = rows.histories(np.arange(len(rows)), rows.targets)
    found = {}
    for i, (target, shown, read) in enumerate(zip(rows.targets.tolist(), text, long, strict=True)):
        pair = split.id2token("user_id", int(split.inter_feat["user_id"][i])), split.id2token("item_id", target)
        ids, _ = rows[Question(i, (target,), 0, text=(shown,), long=(read,))]["prompts"][0]
        found[pair] = ids, tuple(split.id2token("item_id", rows.timelines.items[list(read)]))
    return found


def asked(loader):
    """{(user, item): (prompt ids with the branch, CRM history)} of an evaluation loader."""
    split, found = loader._dataset, {}
    for batch in loader:
        for i in range(len(batch)):
            user = split.id2token("user_id", int(batch["user_id"][i]))
            for j, row in enumerate(batch["candidate_row"][i].tolist()):
                if row >= 0:
                    item = split.id2token("item_id", int(batch["candidates"][i, j]))
                    ids = batch["prompt_ids"][i][batch["prompt_mask"][i]].tolist()
                    ids += batch["branch_ids"][i, j][batch["branch_mask"][i, j]].tolist()
                    history = split.id2token("item_id", batch["item_id_list"][i].numpy())
                    found[user, item] = ids, tuple(history)
    return found


@torch.no_grad()
def gates(model, loader):
    """{(user, item): gate weights} of every labelled row of an evaluation loader."""
    split, found = loader._dataset, {}
    for batch in loader:
        weights = model.gate(_one_item_per_row(batch, model)).weights.unflatten(0, batch["candidates"].shape)
        for i, j in (batch["candidate_row"] >= 0).nonzero().tolist():
            user = split.id2token("user_id", int(batch["user_id"][i]))
            found[user, split.id2token("item_id", int(batch["candidates"][i, j]))] = weights[i, j]
    return found


def test_later_rows_and_the_rows_own_label_change_neither_prompt_nor_gate_input(tied_lines, tiny_llm, tmp_path):
    """Everything at or after a row's moment is altered: ratings turned round, other items put in."""
    halves = {"eval_args": {"split": {"RS": [4, 1, 5]}}, "train_sample_size": 40}  # most test rows of one are test rows of the other
    first, before = prepared(write(tmp_path / "a", tied_lines), tiny_llm, tmp_path, **halves)
    moment = 1004  # the last of five; all test rows are there
    altered = []
    for line in tied_lines:
        user, item, rating, time = line.split("\t")
        altered.append(f"{user}\t{item}\t{6 - int(rating) if int(time) >= moment else rating}\t{time}")
    taken = {tuple(line.split("\t")[:2]) for line in tied_lines}
    for user in range(12):
        new = [f"i{item}" for item in range(60) if (f"u{user}", f"i{item}") not in taken][:2]
        altered += [f"u{user}\t{item}\t{1 + 4 * ((user + k) % 2)}\t{moment + 10 + k}" for k, item in enumerate(new)]
    config, after = prepared(write(tmp_path / "b", altered), tiny_llm, tmp_path / "b", **halves)
    known = {pair: shown for loader in before[1:] for pair, shown in prompts(config, loader._dataset).items()}
    found = {pair: shown for loader in after[1:] for pair, shown in prompts(config, loader._dataset).items()}
    assert len(known) == 12 * 9 and known.items() <= found.items()
    ids = before[0].field2token_id["item_id"]  # one recommender reads both: the items' ids must be the same
    assert ids.items() <= after[0].field2token_id["item_id"].items()
    model = RecLoRA(first, before[1]._dataset).eval()
    asked_before, asked_after = gates(model, before[3]), gates(model, after[3])
    shared = asked_before.keys() & asked_after.keys()
    assert len(shared) > 40
    for pair in shared:  # batches of other rows round otherwise
        torch.testing.assert_close(asked_before[pair], asked_after[pair], rtol=0, atol=1e-6)
    assert len({tuple(weights.flatten().mul(1e5).round().tolist()) for weights in asked_before.values()}) > 12  # gates differ by more than that


def test_the_answer_is_the_label_and_the_prompt_does_not_hold_it(tiny_data, tiny_llm, tmp_path):
    config, (_, train, _, _) = prepared(tiny_data, tiny_llm, tmp_path, train_sample_size=None)
    train.set_epoch(0)
    yes, no = train.dataset.answers
    seen, empty = set(), 0
    for batch in train:
        texts = train.dataset.tokens.tokenizer.batch_decode(batch["prompt_ids"])
        empty += sum("nothing yet" in text for text in texts)
        assert ["nothing yet" in text for text in texts] == (batch["item_id_list"] == 0).all(1).tolist()
        assert batch["answer_ids"].shape == (len(batch), 1)
        assert torch.equal(batch["answer_ids"][:, 0] == yes, batch["label"] == 1)
        seen |= set(batch["answer_ids"].flatten().tolist())
    assert seen == {yes, no}
    assert empty == 0  # a row has an earlier interaction, which the prompt and the recommender read


def test_labelled_rows_of_one_moment_share_a_prompt_and_score_as_alone(tied_lines, tiny_llm, tmp_path):
    data = write(tmp_path / "data", tied_lines)
    options = {"gate_input": "sequence", "lora_mixing": "weight"}
    config, (_, train, _, shared) = prepared(data, tiny_llm, tmp_path, **options)
    model = RecLoRA(config, train._dataset).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    assert len([k for b in shared.batch_sampler for k in b]) < len(shared._dataset)

    def scores(batches):
        found = {}
        for batch in batches:
            rows = batch["candidate_row"]
            for row, score in zip(
                rows.flatten().tolist(), model.score_candidates(batch).flatten().tolist(), strict=True
            ):
                found.setdefault(row, score)
        found.pop(-1, None)
        return found

    together = scores(shared)
    single = scores(
        shared.collate_fn([shared.dataset[type(key)(**{**vars(key), "candidates": (item,), "rows": (row,)})]])
        for keys in shared.batch_sampler
        for key in keys
        for item, row in zip(key.candidates, key.rows, strict=True)
        if row >= 0
    )
    assert together.keys() == single.keys()
    np.testing.assert_allclose([together[r] for r in sorted(together)], [single[r] for r in sorted(single)], rtol=1e-4)


def test_the_released_recipe_selects_on_the_test_rows_after_one_epoch(tiny_data, tiny_llm, tmp_path):
    config, (_, _, valid, test) = prepared(
        tiny_data, tiny_llm, tmp_path, recipe="released", epochs=7, valid_sample_size=None
    )
    assert config["epochs"] == 7  # the user's; else one
    assert LLMConfig("RecLoRA", "ml-100k", config_dict={"recipe": "released", "crm_epochs": 1})["epochs"] == 1
    assert valid.phase == test.phase == "test"
    assert asked(valid) == asked(test)


def test_recent_negatives_stay_outside_the_shown_history(tiny_data, tiny_llm, tmp_path):
    more = {"text_history_len": 3, "train_negatives": "recent", "n_candidates": 8, "protocol": "candidates"}
    config = LLMConfig("RecLoRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **{**SMALL, **more}))
    train = prepare_data(config)[1]
    rows, found = train.dataset, 0
    for row in range(len(rows.targets)):
        places = list(range(rows.start[row], rows.end[row]))[-3:]
        assert rows.history(row) == rows.timelines.items[places].tolist()
        found += len(places) == 3
    assert found  # longer histories are cut
    train.set_epoch(0)
    keys = [key for batch in train.batches for key in batch]
    asked_about = [(rows.history(key.row), key.candidates[0]) for key in keys if not key.label]
    assert asked_about and not any(item in history for history, item in asked_about)


def test_a_history_behind_the_item_asked_about_is_refused(tiny_data, tiny_llm, tmp_path):
    templates = {"ctr": ["Is {target} liked after{history}? Answer:"], "candidates": []}
    with pytest.raises(ValueError, match=r"\{history\} must stand before \{target\}"):
        prepared(tiny_data, tiny_llm, tmp_path, click_templates=templates)


def test_history_notes_say_what_was_liked(tiny_data, tiny_llm, tmp_path):
    config, (_, _, _, test) = prepared(tiny_data, tiny_llm, tmp_path)
    text = test._dataset.prompt_tokenizer.tokenizer.decode(next(iter(test))["prompt_ids"][0])
    assert "(liked)" in text or "(disliked)" in text
    _, (_, _, _, rated) = prepared(tiny_data, tiny_llm, tmp_path, history_notes="ratings")
    with_ratings = rated._dataset.prompt_tokenizer.tokenizer.decode(next(iter(rated))["prompt_ids"][0])
    assert " of 5)" in with_ratings


def test_a_sample_of_validation_rows_with_one_label_is_refused_before_training(tiny_data, tiny_llm, tmp_path):
    with pytest.raises(ValueError, match=r"all 1 valid rows are labelled [01], so AUC is undefined; change valid_sample_size 1, threshold"):
        prepared(tiny_data, tiny_llm, tmp_path, valid_sample_size=1)
