"""Inputs after public reports of RecBole's users: each gives its right rows and titles, or an error that says what to do."""

import logging

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from recbole.utils import FeatureType

from recbole_llm.data.item_text import load_titles
from recbole_llm.data.rows import evaluation_rows
from recbole_llm.evaluation.preparation import prepare_data

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
USERS, STEPS, ITEMS = 12, 9, 40


def interactions() -> list[tuple[str, str, int]]:
    """(user, item, step), each user's in order; all items occur, and i24 is the latest of u0."""
    return [(f"u{u}", f"i{(7 * u + 3 * step) % ITEMS}", step) for u in range(USERS) for step in range(STEPS)]


ROWS = interactions()
LATEST = sorted((user, item) for user, item, step in ROWS if step == STEPS - 1)


def inter(time=lambda step: 1000 + step, newest_first=False, separator="\t", header=HEADER, name=lambda item: item):
    rows = sorted(ROWS, key=lambda row: -row[2] if newest_first else 0)
    lines = [separator.join((user, name(item), str(time(step)))) for user, item, step in rows]
    return "\n".join([header.replace("\t", separator), *lines]) + "\n"


def items(title=lambda i: f"Title {i}", separator="\t", name=lambda i: f"i{i}"):
    lines = [f"{name(i)}{separator}{title(i)}" for i in range(ITEMS)]
    return "\n".join([f"item_id:token{separator}title:token_seq", *lines]) + "\n"


def reviewed(first: str, *others: str) -> str:
    """Interactions with a column of reviews, these ones here and there."""
    lines = inter().splitlines()
    reviews = {8: first} | {20 + 9 * n: text for n, text in enumerate(others)}
    body = [f"{line}\t{reviews.get(n, 'fine')}" for n, line in enumerate(lines[1:])]
    return "\n".join([f"{lines[0]}\treview:token_seq", *body]) + "\n"


def write(folder, files: dict[str, str | bytes], name="case"):
    (folder / name).mkdir(exist_ok=True)
    for suffix, text in files.items():
        (folder / name / f"{name}.{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def renamed(text: str, new: str) -> str:
    """Item i24 called otherwise."""
    return text.replace("\ti24\t", f"\t{new}\t").replace("\ni24\t", f"\n{new}\t")


SOUND = {  # name -> (files, settings)
    "unix seconds": ({"inter": inter(lambda s: 1_700_000_000 + 10 * s, newest_first=True)}, {}),
    "unix milliseconds": ({"inter": inter(lambda s: 1_700_000_000_000 + 10_000 * s, newest_first=True)}, {}),
    "unix nanoseconds": ({"inter": inter(lambda s: 1_700_000_000 * 10**9 + s * 10**9, newest_first=True)}, {}),
    "normalised times": (
        {"inter": inter(lambda s: 1_700_000_000 + 10 * s if s else 5, newest_first=True)},
        {"normalize_all": True},
    ),
    "dates": ({"inter": inter(lambda s: f"2018-09-{s + 1:02}", newest_first=True)}, {}),
    "dates and hours": ({"inter": inter(lambda s: f"2018-09-01T0{s}:00:00Z", newest_first=True)}, {}),
    "equal times": ({"inter": inter(lambda s: 7)}, {}),
    "two stray quotes": ({"inter": reviewed('"Best one yet', '10"')}, {}),
    "a review that opens with a quote": ({"inter": reviewed('"great', 'say "yes" now')}, {}),
    "titles with stray quotes, loaded": (
        {"item": items(lambda i: {3: '"Best one yet', 20: 'Monitor 10"'}.get(i, f"Title {i}"))},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}},
    ),
    "an item called NA": ({"inter": renamed(inter(), "NA"), "item": renamed(items(), "NA")}, {}),
    "an item called null": ({"inter": renamed(inter(), "null"), "item": renamed(items(), "null")}, {}),
    "ids like numbers": (
        {"inter": inter(name=lambda i: f"{i[1:]}.0"), "item": items(name=lambda i: f"{i}.0")},
        {},
    ),
    "Windows lines": ({"inter": inter().replace("\n", "\r\n"), "item": items().replace("\n", "\r\n")}, {}),
    "old Mac lines": ({"inter": inter().replace("\n", "\r")}, {}),
    "byte order marks": ({"inter": "\ufeff" + inter().replace("\n", "\r\n"), "item": "\ufeff" + items()}, {}),
    "UTF-16": ({"inter": inter().encode("utf-16"), "item": items().encode("utf-16")}, {"encoding": "utf-16"}),
    "commas": (
        {"inter": inter(separator=","), "item": items(lambda i: '"Dune, part two"' if i == 3 else i, ",")},
        {"field_separator": ","},
    ),
    "all quoted": (
        {"inter": "\n".join(",".join(f'"{v}"' for v in line.split("\t")) for line in inter().splitlines())},
        {"field_separator": ",", "item": ","},
    ),
    "a title with a line break": ({"item": items(lambda i: '"Line one\nline two"' if i == 3 else f"Title {i}")}, {}),
}


def expected(name: str) -> list[tuple[str, str]]:
    names = {"an item called NA": {"i24": "NA"}, "an item called null": {"i24": "null"}}.get(name, {})
    if name == "ids like numbers":
        names = {f"i{i}": f"{i}.0" for i in range(ITEMS)}
    return sorted((user, names.get(item, item)) for user, item in LATEST)


@pytest.fixture
def case(tmp_path, make_config):
    """A function (files, model, **settings) -> config over a dataset with these files."""

    def make(files, model="SASRec", **settings):
        sound = {"inter": inter(), "item": items(separator=settings.pop("item", "\t"))}
        write(tmp_path, sound | files)
        return make_config(model, dataset="case", data_path=str(tmp_path), **{"item_text_field": "title", **settings})

    return make


def pairs(split) -> list[tuple[str, str]]:
    columns = (
        split.field2id_token[f][split.inter_feat[f].numpy()].tolist() for f in (split.uid_field, split.iid_field)
    )
    return sorted(zip(*columns, strict=True))


@pytest.mark.parametrize("name", SOUND)
def test_the_latest_items_are_the_targets_of_every_model(case, name):
    files, settings = SOUND[name]
    rows = evaluation_rows(case(files, **settings))
    assert list(zip(*(column.tolist() for column in rows.test), strict=True)) == expected(name)
    assert sum(len(rows.histories[user]) for user in rows.histories) == len(ROWS)
    for model in ("SASRec", "BPR"):
        config = case(files, model, **settings)
        assert pairs(create_dataset(config).build()[2]) == expected(name), f"{model}, as RecBole splits"
        _, train, _, test = prepare_data(config)
        assert pairs(test._dataset) == expected(name), model
        assert len(train._dataset) + 2 * USERS + USERS * (model == "SASRec") == len(ROWS)


@pytest.mark.parametrize(
    ("name", "item", "title"),
    [
        ("commas", "i3", "Dune, part two"),
        ("a title with a line break", "i3", "Line one line two"),
        ("titles with stray quotes, loaded", "i3", '"Best one yet'),
        ("titles with stray quotes, loaded", "i20", 'Monitor 10"'),
        ("an item called NA", "NA", "Title 24"),
        ("byte order marks", "i39", "Title 39"),
    ],
)
def test_titles(case, name, item, title):
    files, settings = SOUND[name]
    config = case(files, **settings)
    dataset = create_dataset(config)
    assert load_titles(config, dataset)[dataset.token2id("item_id", item)] == title


def test_rows_between_two_stray_quotes_are_told(case, caplog):
    with caplog.at_level(logging.WARNING):
        evaluation_rows(case(SOUND["two stray quotes"][0]))
    assert "case.inter: lines 10 to 22 stand between two stray quotes and are read as 13 rows" in caplog.text


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
@pytest.mark.parametrize("loaded", [True, False])
def test_rows_without_a_time_are_left_out_and_counted(case, caplog, model, loaded):
    lines = inter().splitlines(keepends=True)
    lines[4] = "\t".join([*lines[4].split("\t")[:2], "\n"])
    columns = ["user_id", "item_id"] + ["timestamp"] * loaded
    config = case({"inter": "".join(lines)}, model, load_col={"inter": columns})
    with caplog.at_level(logging.WARNING):
        dataset = create_dataset(config)
    assert len(dataset.inter_feat) == len(ROWS) - 1
    assert "case.inter: 1 of 108 rows have no timestamp and are left out: line 5" in caplog.text


def walk(start: float, step: float) -> tuple[str, list[tuple[str, str, float]]]:
    """A file in which the users take turns, lines shuffled, a row each ``step``; and its rows in order of time."""
    turns = np.random.default_rng(3).permutation(np.repeat(np.arange(USERS), STEPS)).tolist()
    rows, done = [], dict.fromkeys(range(USERS), 0)
    for place, user in enumerate(turns):
        rows.append((f"u{user}", f"i{(7 * user + 3 * done[user]) % ITEMS}", start + place * step))
        done[user] += 1
    lines = ["\t".join(map(str, rows[i])) for i in np.random.default_rng(4).permutation(len(rows))]
    return "\n".join([HEADER, *lines]) + "\n", rows


def split_by_time(rows, shares) -> tuple[list, list]:
    """RecBole's rule in Python's numbers: later than the quantile is test; of a user's others the first share is training."""
    times = sorted(time for *_, time in rows)
    place = (len(times) - 1) * (1 - shares[2])
    bound = times[int(place)] + (place - int(place)) * (times[int(place) + 1] - times[int(place)])
    test = sorted(row[:2] for row in rows if row[2] > bound)
    valid = []
    for user in {row[0] for row in rows}:
        mine = [row[:2] for row in rows if row[0] == user and row[2] <= bound]
        valid += mine[int(len(mine) * (shares[0] / (1 - shares[2]))) :]
    return sorted(valid), test


@pytest.mark.parametrize(
    ("start", "step"),
    [(1_700_000_000, 1), (2**24 - 60, 1), (2**31 - 60, 1), (1_700_000_000_000, 1), (1_700_000_000_000_000, 1), (1_700_000_000, 0.25)],
)
def test_a_split_by_time_compares_the_files_own_numbers(case, start, step):
    text, rows = walk(start, step)
    split = {"eval_args": {"split": {"TS": [0.7, 0.1, 0.2]}, "order": "TO", "group_by": "user"}}
    first = {row[0]: row for row in reversed(rows)}
    later = split_by_time([row for row in rows if row != first[row[0]]], [0.7, 0.1, 0.2])  # sequential rows have an earlier one
    found = evaluation_rows(case({"inter": text}, **split))
    assert [sorted(zip(*map(np.ndarray.tolist, phase), strict=True)) for phase in (found.valid, found.test)] == list(later)
    for model, wanted in (("SASRec", later), ("BPR", split_by_time(rows, [0.7, 0.1, 0.2]))):
        splits = create_dataset(case({"inter": text}, model, **split)).build()
        assert [pairs(part) for part in splits[1:]] == list(wanted), f"{model}, as RecBole splits"
        assert all(part.inter_feat["timestamp"].dtype == torch.float32 for part in splits)  # as models read them
        assert [pairs(loader._dataset) for loader in prepare_data(case({"inter": text}, model, **split))[2:]] == list(later)


@pytest.mark.parametrize(
    ("split", "order", "complaint"),
    [([0.8, 0.1, 0.1], "RO", "TS with order 'RO'.*set order: TO"), ([0.8, 0.2], "TO", r"TS is \[0.8, 0.2\] and must be"),
     ([0, 0, 1], "TO", "must be the shares"), (0.8, "TO", "must be the shares")],
)  # fmt: skip
def test_splits_by_time_that_recbole_would_get_wrong(case, split, order, complaint):
    config = case({}, "BPR")
    config["eval_args"] = {"split": {"TS": split}, "order": order, "group_by": "user", "mode": "full"}
    with pytest.raises(ValueError, match=complaint):
        create_dataset(config).build()


TEXT_TIME = {"inter": inter(lambda s: "yesterday" if s == 2 else 1000 + s)}
PRICED = items().replace("title:token_seq", "title:token_seq\tprice:float").replace("Title ", "Title\t")
PRICE = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}}
RATED = inter(header=f"{HEADER}\trating:float", time=lambda s: f"{1000 + s}\t{'' if s == 3 else 4}")
RATING = {"load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]}}
REFUSED = {  # name -> (files, settings, what the error says)
    "text as a time": (TEXT_TIME, {}, r"case.inter, line 4: timestamp is 'yesterday'.*ISO dates.*TIME_FIELD"),
    "another form of dates": (
        {"inter": inter(lambda s: f"{s + 1}/9/2018")},
        {},
        r"case.inter, line 2: timestamp is '1/9/2018'.*2018-09-01",
    ),
    "times as tokens": (
        {"inter": inter(header=HEADER.replace("timestamp:float", "timestamp:token"), newest_first=True)},
        {},
        r"case.inter: the time is declared timestamp:token.*write timestamp:float",
    ),
    "no rating": ({"inter": RATED}, RATING, r"case.inter, line 5: rating is empty, as in 12 of 108 rows.*load_col"),
    "no price": ({"item": PRICED.replace("\t7\n", "\t\n")}, PRICE, r"case.item, line 9: price is empty, as in 1 of 40"),
    "text as a price": (
        {"item": PRICED.replace("\t7\n", "\tfree\n")},
        PRICE,
        r"case.item, line 9: price is 'free', and price:float holds numbers.*price:token",
    ),
    "no row with a price": (
        {"item": PRICED.replace("\ni7\t", "\nj7\t")},
        PRICE | {"filter_inter_by_user_or_item": False},
        r"case.item has no row for 1 items of the interactions, first 'i7', and so no price",
    ),
    "spaces": (
        {"inter": inter(separator=" ")},
        {},
        r"case.inter: its columns are separated by ' ', not by field_separator '\\t'; set field_separator: ' '",
    ),
    "no types": (
        {"inter": inter(header=HEADER.replace(":token", "").replace(":float", ""))},
        {},
        r"case.inter: column 'user_id' of the header has no type.*name:type.*user_id:token",
    ),
    "a header and no rows": ({"inter": HEADER + "\n"}, {}, r"case.inter holds a header and no rows"),
    "nothing at all": ({"inter": ""}, {}, r"case.inter is empty; its first line must be a header"),
    "another encoding": (
        {"inter": inter(name=lambda item: f"é{item}").encode("latin-1")},
        {},
        r"case.inter: byte \d+ is not utf-8 text; set `encoding` to the file's own \(line 2\)",
    ),
    "UTF-16 unsaid": ({"inter": inter().encode("utf-16")}, {}, r"case.inter: byte 0 is not utf-8.*mark of UTF-16"),
    "an interval that nobody is in": (
        {},
        {"user_inter_num_interval": "[100,inf)"},
        r"case: no row of .inter is left: user_inter_num_interval: \[100,inf\) left 0 of 108 rows",
    ),
    "an interval of values": (
        {},
        {"val_interval": {"timestamp": "[1,2]"}},
        r"case: no row of .inter is left: val_interval: .*timestamp.* left 0 of 108 rows",
    ),
    "the padding's name": (
        {"inter": renamed(inter(), "[PAD]")},
        {},
        r"case.inter, line \d+: item_id is '\[PAD\]', RecBole's name",
    ),
    "a line too long": (
        {"inter": inter().replace("u1\ti", "u1\tx\ti", 1)},
        {},
        r"case.inter, line 11: 4 columns where the header has 3; remove the field_separator",
    ),
}


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_the_remedy(case, model, name):
    files, settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        create_dataset(case(files, model, **settings)).build()
    if "price" not in name and "rating" not in name:  # the plugin's rows do not read these columns
        with pytest.raises(ValueError, match=message):
            evaluation_rows(case(files, model, **settings))


def test_a_quote_that_closes_on_the_next_line_is_either_and_refused(case):
    lines = inter().splitlines()
    body = [f"{line}\t{ {8: chr(34) + 'Best', 9: 'so far' + chr(34)}.get(n, 'fine')}" for n, line in enumerate(lines[1:])]
    text = "\n".join([f"{lines[0]}\treview:token_seq", *body]) + "\n"
    with pytest.raises(ValueError, match="case.inter, line 10: a quote opens that line 11 closes.*remove the quotes"):
        evaluation_rows(case({"inter": text}))


@pytest.mark.parametrize("column", ["time", "date_added", "clock"])
def test_a_time_column_of_another_name(case, column):
    files = {"inter": inter(header=HEADER.replace("timestamp", column))}
    guess = "<its name in the file>" if column == "clock" else column
    with pytest.raises(ValueError, match=rf"case.inter has no column 'timestamp' .*set TIME_FIELD: {guess} ") as caught:
        evaluation_rows(case(files))
    assert "data_path" not in str(caught.value)  # the file is where it should be
    for model in ("SASRec", "BPR"):
        with pytest.raises(ValueError, match=rf"case.inter has no column 'timestamp' .*set TIME_FIELD: {guess} "):
            create_dataset(case(files, model)).build()
    with pytest.raises(ValueError, match=r"case: .* in order by 'timestamp', .* loaded columns .*item_id; .* load_col"):
        create_dataset(case({"inter": inter()}, "BPR", load_col={"inter": ["user_id", "item_id"]})).build()
    columns = {"inter": ["user_id", "item_id", column]}
    assert len(evaluation_rows(case(files, TIME_FIELD=column, load_col=columns)).test[0]) == USERS


def test_titles_of_other_ids(case, caplog):
    files = {"inter": inter(name=lambda i: f"{i[1:]}.0"), "item": items(name=str)}
    config = case(files)
    with pytest.raises(ValueError, match=r"no item of the interactions has a title.*e.g. '\d+.0', .* e.g. '0'.*3, not 3.0"):
        load_titles(config, create_dataset(config))
    config = case({"item": items(lambda i: "")})
    with pytest.raises(ValueError, match="the column 'title' is empty for all items"):
        load_titles(config, create_dataset(config))
    config = case({"item": items(name=lambda i: f"i{i}" if i % 4 else f"j{i}")})
    with caplog.at_level(logging.WARNING):
        load_titles(config, create_dataset(config))
    (warning,) = [record.message for record in caplog.records if "have no title" in record.message]
    assert "10 of 40 items" in warning and warning.count(", i") >= 2


def test_filters_that_keep_nothing_show_an_id_of_each_file(case):
    both = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}}
    config = case({"item": items(name=str)}, "SASRec", filter_inter_by_user_or_item=True, **both)
    with pytest.raises(ValueError, match=r"filter_inter_by_user_or_item: True left 0 of 108 .*item 'i\d+' in .inter and '0'"):
        create_dataset(config)


# ---- benchmark files ----------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=rf"item_id_list of interaction \d+ holds .* set seq_separator: '{mark.strip() or ' '}'"):
        evaluation_rows(config)
    with pytest.raises(ValueError, match="set seq_separator"):
        create_dataset(config)


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


def test_padding_keeps_a_number_and_nothing_else_is_made_up(case):
    dataset = create_dataset(case({"item": PRICED}, **PRICE))
    prices = dict(zip(dataset.field2id_token["item_id"].tolist(), dataset.item_feat["price"].tolist(), strict=True))
    assert all(prices[f"i{i}"] == i for i in range(ITEMS)) and np.isfinite(prices["[PAD]"])
    assert dataset.field2type["price"] == FeatureType.FLOAT
