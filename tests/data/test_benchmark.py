"""Files that are split already (`benchmark_filename`): histories are built from them, and lists in them are read as they are written."""

import json

import pytest
from recbole.data import create_dataset

from recbole_llm.data.rows import evaluation_rows
from tests.data.case_files import HEADER, LATEST, ROWS, STEPS, USERS, pairs

PARTS = {"train": range(STEPS - 2), "valid": [STEPS - 2], "test": [STEPS - 1]}


def plain_files(time=lambda step: 1000 + step, header=HEADER) -> dict[str, str]:
    files = {}
    for part, steps in PARTS.items():
        lines = ["\t".join((u, i, str(time(s)))[: header.count(":")]) for u, i, s in ROWS if s in steps]
        files[f"{part}.inter"] = "\n".join([header, *lines]) + "\n"
    return files


def list_files(separator=" ") -> dict[str, str]:
    histories: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {part: [] for part in PARTS}
    for user, item, step in ROWS:
        history = histories.setdefault(user, [])
        if history:
            part = next(part for part, steps in PARTS.items() if step in steps)
            lines[part].append(f"{user}\t{item}\t{separator.join(history)}")
        history.append(item)
    header = "user_id:token\titem_id:token\titem_id_list:token_seq"
    return {f"{part}.inter": "\n".join([header, *own]) + "\n" for part, own in lines.items()}


THREE = {"benchmark_filename": ["train", "valid", "test"]}
LISTS = THREE | {"alias_of_item_id": ["item_id_list"], "load_col": {"inter": ["user_id", "item_id", "item_id_list"]}}


@pytest.mark.parametrize(
    "files",
    [
        plain_files(),
        plain_files(lambda s: 1_700_000_000 + 10 * s),
        plain_files(lambda s: 5),  # the order of the lines
        plain_files(header="user_id:token\titem_id:token"),
        plain_files(lambda s: 1 if s == STEPS - 1 else 1000 + s),  # the files' order comes before the times
    ],
)
def test_plain_benchmark_files_get_the_histories_that_one_file_would_give(case, files):
    columns = ["user_id", "item_id"] + ["timestamp"] * ("timestamp" in files["test.inter"])
    config, whole = case(files, load_col={"inter": columns}, **THREE), case({})
    found, reference = evaluation_rows(config), evaluation_rows(whole)
    for phase in ("valid", "test"):
        assert [c.tolist() for c in getattr(found, phase)] == [c.tolist() for c in getattr(reference, phase)]
    assert {u: found.histories[u].tolist() for u in found.histories} == {
        u: reference.histories[u].tolist() for u in reference.histories
    }
    for ours, one in zip(create_dataset(config).build(), create_dataset(whole).build(), strict=True):
        assert histories_of(ours) == histories_of(one) and set(ours.inter_feat.columns) <= set(one.inter_feat.columns)
    assert pairs(create_dataset(case(files, "BPR", load_col={"inter": columns}, **THREE)).build()[2]) == LATEST


def test_plain_benchmark_files_are_put_in_order_by_integers(case):
    files = plain_files(lambda s: 10**18 + s)
    head, *rows = files["train.inter"].splitlines()
    files["train.inter"] = "\n".join([head, *reversed(rows)]) + "\n"
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    found, whole = (create_dataset(config).build()[2] for config in (case(files, load_col=columns, **THREE), case({})))
    assert histories_of(found) == histories_of(whole)


def histories_of(split) -> set[tuple]:
    feat, names = split.inter_feat, split.field2id_token["item_id"]
    lengths, users = feat["item_length"].tolist(), split.field2id_token["user_id"][feat["user_id"].numpy()]
    targets = names[feat["item_id"].numpy()]
    lists = [tuple(names[row[:n].numpy()]) for row, n in zip(feat["item_id_list"], lengths, strict=True)]
    return set(zip(users.tolist(), targets.tolist(), lists, strict=True))


def test_plain_benchmark_files_keep_their_times(case):
    config = case(plain_files(lambda s: 1000 + s), **THREE)
    test = create_dataset(config).build()[2].inter_feat
    assert test["timestamp"].tolist() == [1008] * USERS
    assert test["timestamp_list"][0].tolist() == [1002, 1003, 1004, 1005, 1006, 1007]


def test_benchmark_files_with_lists(case):
    rows = evaluation_rows(case(list_files(), **LISTS))
    assert list(zip(*(column.tolist() for column in rows.test), strict=True)) == LATEST


@pytest.mark.parametrize(("mark", "own"), [(",", " "), (";", " "), (", ", " "), (" ", ",")])
def test_lists_with_another_separator_are_named(case, mark, own):
    config = case(list_files(mark), seq_separator=own, **LISTS)
    with pytest.raises(ValueError, match=rf"case.train.inter, line \d+: item_id_list is .* at seq_separator '{own}': set seq_separator: '{mark.strip() or ' '}'"):
        evaluation_rows(config)
    with pytest.raises(ValueError, match="set seq_separator"):
        create_dataset(config)


@pytest.mark.parametrize(
    ("notation", "own"),
    [
        (str, " "),  # as pandas writes a column of lists
        (lambda ids: f"[{' '.join(ids)}]", " "),
        (lambda ids: " ".join(f'"{item}"' for item in ids), " "),
        (lambda ids: json.dumps(ids, separators=(",", ":")), " "),
        (str, ","),
        (", ".join, ","),
    ],
)
def test_lists_with_marks_around_their_ids_are_named(case, notation, own):
    files = {}
    for part, text in list_files().items():
        head, *rows = text.splitlines()
        cells = (row.split("\t") for row in rows)
        files[part] = "\n".join([head, *(f"{user}\t{item}\t{notation(history.split(' '))}" for user, item, history in cells)]) + "\n"
    message = rf"case.train.inter, line \d+: item_id_list is .* at seq_separator '{own}': write each list as ids with '{own}' between"
    for model in ("SASRec", "BPR"):
        with pytest.raises(ValueError, match=message):
            create_dataset(case(files, model, seq_separator=own, **LISTS))


def test_one_list_of_ids_that_are_seen_in_lists_alone(case):
    files = {part: text + f"u0\ti5\t{'x1,x2' if part == 'test.inter' else 'x1 x2'}\n" for part, text in list_files().items()}
    line = files["test.inter"].count("\n")
    with pytest.raises(ValueError, match=rf"case.test.inter, line {line}: item_id_list is 'x1,x2'.* set seq_separator: ','"):
        create_dataset(case(files, **LISTS))


def test_the_paddings_name_in_a_list(case):
    files = list_files()
    files["valid.inter"] = files["valid.inter"].replace(" i", " [PAD] i", 1)
    for read in (evaluation_rows, create_dataset):
        with pytest.raises(ValueError, match=r"case.valid.inter, line 2: item_id_list holds '\[PAD\]', RecBole's name"):
            read(case(files, **LISTS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark_filename": ["train", "test"]}, r"benchmark_filename is \['train', 'test'\] and must name three files"),
        ({"benchmark_filename": "train"}, "benchmark_filename is 'train' and must name three files"),
        ({"load_col": {"inter": ["user_id", "item_id"]}}, "holds the histories item_id_list, which are not loaded"),
    ],
)
def test_benchmark_settings(case, settings, message):
    with pytest.raises(ValueError, match=message):
        create_dataset(case(list_files(), **LISTS | settings))


def test_an_alias_that_no_file_has(case):
    with pytest.raises(ValueError, match="alias_of_item_id names item_id_list, which the files lack"):
        create_dataset(case(plain_files(), alias_of_item_id=["item_id_list"], **THREE))


def test_benchmark_files_need_the_same_columns(case):
    files = list_files() | {"test.inter": plain_files()["test.inter"]}
    with pytest.raises(ValueError, match=r"case.test.inter has the columns .*timestamp, and .*train.inter has"):
        evaluation_rows(case(files, **LISTS))
