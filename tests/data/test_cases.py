"""Inputs after public reports of RecBole's users: each gives its right rows and titles, or an error that says what to do."""

import logging

import numpy as np
import pytest
from recbole.data import create_dataset
from recbole.utils import FeatureType

from recbole_llm.data.item_text import load_titles
from recbole_llm.data.rows import evaluation_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.data.case_files import HEADER, ITEMS, LATEST, ROWS, USERS, inter, items, pairs


def reviewed(first: str, *others: str) -> str:
    """Interactions with a column of reviews, these ones here and there."""
    lines = inter().splitlines()
    reviews = {8: first} | {20 + 9 * n: text for n, text in enumerate(others)}
    body = [f"{line}\t{reviews.get(n, 'fine')}" for n, line in enumerate(lines[1:])]
    return "\n".join([f"{lines[0]}\treview:token_seq", *body]) + "\n"





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
    "nanoseconds that float64 does not tell apart": ({"inter": inter(lambda s: 1_700_000_000 * 10**9 + s, newest_first=True)}, {}),
    "nanoseconds, normalised and without repeated pairs": (
        {"inter": inter(lambda s: 1_700_000_000 * 10**9 + s, newest_first=True)},
        {"normalize_all": True, "rm_dup_inter": "last"},
    ),
    "nanoseconds and a row without a time": (
        {"inter": inter(lambda s: 1_700_000_000 * 10**9 + s, newest_first=True) + "u0\ti1\t\n"},
        {},
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
    "columns of other names": (
        {"inter": inter(header=HEADER.replace("item_id", "movie"))},
        {},
        r"case.inter has no column 'item_id' \(it has user_id, movie, timestamp\).*ITEM_ID_FIELD",
    ),
    "lists for items": (
        {"inter": inter(header=HEADER.replace("item_id:token", "item_id:token_seq"))},
        {},
        r"case.inter: item_id is declared item_id:token_seq, and each row needs one id; write item_id:token in the header",
    ),
    "numbers for items": (
        {"inter": inter(header=HEADER.replace("item_id:token", "item_id:float"), name=lambda item: item[1:])},
        {},
        r"case.inter: item_id is declared item_id:float.*write item_id:token in",
    ),
    "numbers for users": (
        {"inter": inter(header=HEADER.replace("user_id:token", "user_id:float")).replace("\nu", "\n")},
        {},
        r"case.inter: user_id is declared user_id:float.*write user_id:token in",
    ),
    "a line too long": (
        {"inter": inter().replace("u1\ti", "u1\tx\ti", 1)},
        {},
        r"case.inter, line 11: 4 columns where the header has 3; remove the field_separator",
    ),
}


@pytest.mark.parametrize("load", [{"item": ["item_id", "title"]}, {"inter": ["other"]}, {"inter": ["timestamp", "user_id", "item_id"]}])
@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_users_and_items_that_are_not_loaded(case, model, load):
    names = {"USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "movie", "TIME_FIELD": "when"}
    files = {"inter": inter(header="uid:token\tmovie:token\twhen:float"), "item": items().replace("item_id", "movie")}
    remedy = r"case.inter: 'uid', 'movie' of its columns uid, movie, when would not be loaded .*set load_col: {inter: \[uid, movie, when\]}"
    with pytest.raises(ValueError, match=remedy):
        create_dataset(case(files, model, load_col=load, **names))
    assert pairs(create_dataset(case(files, model, load_col=None, **names)).build()[2]) == LATEST


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


def test_padding_keeps_a_number_and_nothing_else_is_made_up(case):
    dataset = create_dataset(case({"item": PRICED}, **PRICE))
    prices = dict(zip(dataset.field2id_token["item_id"].tolist(), dataset.item_feat["price"].tolist(), strict=True))
    assert all(prices[f"i{i}"] == i for i in range(ITEMS)) and np.isfinite(prices["[PAD]"])
    assert dataset.field2type["price"] == FeatureType.FLOAT
