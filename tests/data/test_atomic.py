"""The reader of atomic files: what is read equals what was written, or an error or warning names file and line."""

import csv
import io
import logging
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset

from recbole_llm.data.atomic import read_header, read_table

EXAMPLES = int(os.environ.get("RECBOLE_LLM_FUZZ", "100"))  # files; 2000 for a long run
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
HEADER = ["user_id:token", "item_id:token", "timestamp:float", "note:token"]
ODD = ["NA", "null", "None", "nan", "3", "3.0", "03", "1e5", "-", '"', '""', '"a', 'a"', '"a"', 'a "b" c', "#x", "é", "日本", "🎬"]
LINES = ["one\ntwo", "a, b\tc; d|e", "a\nb\tc,d;e|f", 'he said "so\nit is"', '\n"', "1\n2\n3", "x\r\ny"]  # only in CSV
TIMES = st.one_of(
    st.integers(0, 2**53).map(str),
    st.integers(1_700_000_000, 1_700_000_200).map(str),
    st.floats(0, 1e15, allow_nan=False).map(repr),
)


def words(*excluded: str):
    text = st.text(st.characters(exclude_characters="\0\r" + "".join(excluded), exclude_categories=["Cs"]), max_size=8)
    odd = ODD if excluded else ODD + LINES
    return st.one_of(st.sampled_from(odd), text, st.sampled_from(["u1", "u2", "i1", "i2", "i3"]))


@st.composite
def files(draw):
    """(bytes, separator, encoding, rows): as a script writes them, value for value, or as a CSV writer does."""
    style = draw(st.sampled_from(["plain", "minimal", "all"]))
    separator = draw(st.sampled_from(["\t", ",", ";", "|"] + ["::"] * (style == "plain")))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    excluded = ("\n", "\r", *separator) if style == "plain" else ()
    ids = words(*excluded, " ") if excluded else words()
    rows = draw(st.lists(st.tuples(ids, ids, TIMES, words(*excluded)), min_size=1, max_size=25))
    if style == "plain":
        text = end.join([separator.join(row) for row in [HEADER, *rows]]) + draw(st.sampled_from(["", end]))
    else:
        quoting = csv.QUOTE_MINIMAL if style == "minimal" else csv.QUOTE_ALL
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting).writerows([HEADER, *rows])
        text = buffer.getvalue()
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:
        assume(False)
    if style == "plain":
        assume(not any(v[:1] == v[-1:] == '"' and '""' in v[1:-1] for row in rows for v in row))  # CSV by its looks
    return content, separator, encoding.removesuffix("-sig"), [[v.replace("\r\n", "\n") for v in row] for row in rows]


@FUZZ
@given(files())
def test_what_is_read_was_written(tmp_path_factory, caplog, written):
    content, separator, encoding, rows = written
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.inter"
    path.write_bytes(content)
    caplog.clear()
    try:
        table = read_table(path, separator, encoding)
    except ValueError as error:
        assert str(path) in str(error) and ("line" in str(error) or "header" in str(error))
        return
    read = [list(row) for row in zip(*table.columns.values(), strict=True)]
    assert read == rows or f"{path}: lines" in caplog.text
    if read == rows:
        np.testing.assert_array_equal(table.floats("timestamp"), [float(row[2]) for row in rows])


@FUZZ
@given(files())
def test_recboles_rows_are_those_of_the_file(tmp_path, make_config, caplog, written):
    content, separator, encoding, rows = written
    (tmp_path / "fuzz").mkdir(exist_ok=True)
    path = tmp_path / "fuzz" / "fuzz.inter"
    path.write_bytes(content)
    caplog.clear()
    config = _config(make_config, tmp_path)
    config["field_separator"], config["encoding"] = separator, encoding
    expected: dict[str, list[tuple[float, int, str]]] = {}
    for number, (user, item, time, _) in enumerate(rows):
        if user and item:
            expected.setdefault(user, []).append((float(time), number, item))
    try:
        dataset = SequentialDataset(config)
        test = dataset.build()[2]
    except ValueError as error:
        assert "fuzz" in str(error) or not any(len(own) > 1 for own in expected.values())
        return
    columns = [test.field2id_token[f][test.inter_feat[f].numpy()].tolist() for f in ("user_id", "item_id")]
    latest = {user: max(own)[2] for user, own in expected.items() if len(own) > 2}
    found = {user: item for user, item in zip(*columns, strict=True) if user in latest}
    assert found == latest or f"{path}: lines" in caplog.text


_made = {}


def _config(make_config, folder):
    """One config for all files of a folder: making one takes longer than reading a file."""
    if folder not in _made:
        _made[folder] = make_config(dataset="fuzz", data_path=str(folder))
    return _made[folder]


def write(folder, text: str | bytes):
    path = folder / "a.inter"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("user_id:token item_id:token", " "),
        ("user_id:token,item_id:token", ","),
        ("user_id,item_id", ","),
        ("user_id:token::item_id:token", "::"),
        ("user_id;item_id;timestamp", ";"),
    ],
)
def test_another_separator_is_guessed(tmp_path, header, separator):
    path = write(tmp_path, header + "\n")
    with pytest.raises(ValueError, match=f"separated by '{separator}', not by field_separator"):
        read_header(path)
    assert list(read_header(path, separator))[:2] == ["user_id", "item_id"]


def test_a_name_that_stands_twice(tmp_path):
    with pytest.raises(ValueError, match="header names 'user_id' twice"):
        read_header(write(tmp_path, "user_id:token\tuser_id:token\n"))


def test_lines_with_fewer_columns_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = read_table(write(tmp_path, "a:token\tb:token\n1\t2\n\n3\n4\t\n"))
    assert table.columns == {"a": ["1", "3", "4"], "b": ["2", "", ""]} and table.lines.tolist() == [2, 4, 5]
    assert "1 lines have fewer columns than the header's 2; what is missing is empty: line 4" in caplog.text


def test_a_line_break_in_a_title_is_no_row_of_its_own_where_quotes_do_not_match(tmp_path):
    text = 'a:token\tb:token\n1\t"one\ntwo"\n3\t"four" "\n5\tsix\n'
    with pytest.raises(ValueError, match="a.inter, line 3: 1 columns where the header has 2; .*line breaks"):
        read_table(write(tmp_path, text))


def test_rows_that_quotes_would_swallow_are_refused_where_a_line_is_short(tmp_path):
    body = [f"{i}\tx" for i in range(2, 9)]
    body[1], body[4], body[6] = '3\t"x', "6", '8\tx"'
    with pytest.raises(ValueError, match="a.inter, line 3: a quote opens that line 8 closes"):
        read_table(write(tmp_path, "\n".join(["a:token\tb:token", *body])).rename(tmp_path / "a.inter"))


@pytest.mark.parametrize("value", ["inf", "1,5", "x", "--", "2018-09-01"])
def test_what_is_no_number(tmp_path, value):
    table = read_table(write(tmp_path, f"a:token\tb:float\n1\t\n2\tNA\n3\t1e3\n4\t{value}\n"))
    with pytest.raises(ValueError, match=rf"a.inter, line 5: b is '{value}', and b:float holds numbers"):
        table.floats("b")


def test_numbers_are_exact_and_empty_cells_are_nan(tmp_path):
    table = read_table(write(tmp_path, "b:float\n1700000000123\n\n 0.1 \nNaN\nnull\n"))
    np.testing.assert_array_equal(table.floats("b"), [1700000000123, 0.1, np.nan, np.nan])


@pytest.mark.parametrize(("texts", "wrong"), [(["5", "2018-09-01", "2019-09-01"], "'5'"), (["5", "6", "2018-09-01"], "'2018-09-01'")])
def test_of_dates_among_numbers_the_rarer_is_named(tmp_path, texts, wrong):
    table = read_table(write(tmp_path, "\n".join(["a:token\tt:float", *(f"x\t{text}" for text in texts)])))
    with pytest.raises(ValueError, match=f"t is {wrong}; interactions are put in order by numbers"):
        table.times("t")


@pytest.mark.parametrize("text", ["today", "now", "NaT", "9999-12-31", "0001-01-01", "1677-09-01"])
def test_what_is_no_date_of_64_bits(tmp_path, text):
    table = read_table(write(tmp_path, f"t:float\n2018-09-01\n{text}\n2019-09-01\n"))
    with pytest.raises(ValueError, match=f"a.inter, line 3: t is '{text}'; .*from 1677-09-22 to 2262-04-11: rewrite the column"):
        table.times("t")


def test_times_that_float64_does_not_hold_stay_integers(tmp_path):
    table = read_table(write(tmp_path, f"t:float\n{2**60 + 1}\nNA\n{2**60}\n-{2**60 + 1}\n"))
    assert table.times("t").to_numpy(dtype=object, na_value=None).tolist() == [2**60 + 1, None, 2**60, -(2**60) - 1]
    for other in ("1.5", str(2**63)):
        table = read_table(write(tmp_path, f"t:float\n{2**60 + 1}\n{other}\n"))
        np.testing.assert_array_equal(table.times("t"), [2.0**60, float(other)])


def test_an_encoding_that_python_does_not_know(tmp_path):
    for read in (read_header, read_table):
        with pytest.raises(ValueError, match=r"a.inter: `encoding` is 'nonsense', which Python does not know.* set it to the file's own"):
            read(write(tmp_path, "t:float\n1\n"), encoding="nonsense")


def test_no_separator(tmp_path):
    for read in (read_header, read_table):
        with pytest.raises(ValueError, match="a.inter: field_separator is ''; set it to what stands between the columns"):
            read(write(tmp_path, "t:float\n1\n"), "")


def test_dates_are_seconds(tmp_path):
    table = read_table(write(tmp_path, "t:float\n1970-01-02\n1970-01-01T00:00:01.5\n1970-01-01 02:00+02:00\n \nNA\n"))
    np.testing.assert_array_equal(table.times("t"), [86400, 1.5, 0, np.nan])
