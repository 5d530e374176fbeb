"""Titles: exact text, article order, missing names, and files that spreadsheets and people make."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset

from recbole_llm.data.item_text import clean_title, load_titles, move_article, read_titles, released_article

HARD = [
    "NA",
    "None",
    "null",
    "nan",
    '"Weird Al" Yankovic',
    '"Quoted whole"',
    "{history} and [HistoryEmb] <s> </s> {candidates}",
    "x" * 400,
    "שלום עולם",
    "🎬 film 👩‍👩‍👧",
    "comma, and 'quote' \\n back\\slash",
    "0012",
    "1e5",
    "#hash",
]


def write_items(folder, titles, header="item_id:token\ttitle:token_seq", name="toy"):
    """An .item file with these titles for i0, i1, ... in a new dataset folder; the interactions cover all of them."""
    target = folder / name
    target.mkdir()
    lines = [header, *(f"i{i}\t{title}" for i, title in enumerate(titles))]
    (target / f"{name}.item").write_bytes(("\n".join(lines) + "\n").encode())
    inter = ["user_id:token\titem_id:token\ttimestamp:float"]
    inter += [f"u{u}\ti{i}\t{i}" for u in range(2) for i in range(len(titles))]
    (target / f"{name}.inter").write_text("\n".join(inter) + "\n")
    return folder


def titles_of(make_config, path, **settings) -> dict[str, str]:
    """External token -> title through `load_titles`; also checks the length and the padding item."""
    config = make_config(data_path=str(path), **{"item_text_field": "title", **settings})
    dataset = SequentialDataset(config)
    titles = load_titles(config, dataset)
    assert len(titles) == dataset.item_num and titles[0] == ""
    return dict(zip(dataset.field2id_token["item_id"][1:].tolist(), titles[1:], strict=True))


def test_hard_titles_come_through_unchanged(make_config, tmp_path):
    found = titles_of(make_config, write_items(tmp_path, HARD))
    assert [found[f"i{i}"] for i in range(len(HARD))] == HARD


text = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), max_size=30)


@given(st.lists(text, min_size=1, max_size=6))
def test_the_reader_returns_what_was_written(tmp_path_factory, titles):
    path = tmp_path_factory.mktemp("items") / "toy.item"
    lines = ["item_id:token\ttitle:token", *(f"i{i}\t{title}" for i, title in enumerate(titles))]
    path.write_bytes("\n".join(lines).encode())
    read = read_titles(path, "item_id", "title")
    for i, title in enumerate(titles):
        if '""' not in title:
            assert read[f"i{i}"] == title


@given(st.text())
def test_a_clean_title_is_one_line_and_keeps_every_visible_character(raw):
    cleaned = clean_title(raw)
    assert cleaned.splitlines() in ([], [cleaned])
    assert cleaned == cleaned.strip() and "  " not in cleaned
    assert clean_title(cleaned) == cleaned
    bidi = {chr(c) for c in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    visible = [c for c in raw if c not in bidi and not c.isspace() and (c > "\x9f" or "\x20" <= c < "\x7f")]
    assert [c for c in cleaned if c != " "] == visible


def test_line_breaks_and_controls_become_one_space():
    assert clean_title(" a\nb\r\n c\t\x00d\u2028e\x0bf ") == "a b c d e f"
    assert clean_title("\u202eabc\u2066d\u200f") == "abcd"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Usual Suspects, The", "The Usual Suspects"),
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)"),
        ("American in Paris, An", "An American in Paris"),  # the released code: "A American in Parisn"
        ("American in Paris, An (1951)", "An American in Paris (1951)"),
        ("Kid in King Arthur's Court, A", "A Kid in King Arthur's Court"),
        ("City of God, The (Cidade de Deus) (2002)", "The City of God (Cidade de Deus) (2002)"),
        ("Enfer, L'", "L'Enfer"),
        ("Misérables, Les", "Les Misérables"),
        ("Double vie de Véronique, La (Double Life of Veronique, The)",) * 2,
        ("Good, the Bad and the Ugly, The", "The Good, the Bad and the Ugly"),
        ("Crash, Theory", "Crash, Theory"),
        ("Me, Myself, Ann", "Me, Myself, Ann"),
        ("Love, A Story", "Love, A Story"),
        (", The", ", The"),
        ("The", "The"),
        ("Paris, France", "Paris, France"),
        ("{history}, The", "The {history}"),
        ("", ""),
    ],
)
def test_articles(title, expected):
    if title.startswith("Double vie"):
        expected = "La Double vie de Véronique (Double Life of Veronique, The)"
    assert move_article(title) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("American in Paris, An", "A American in Parisn"),  # design notes, section 10
        ("Usual Suspects, The", "The Usual Suspects"),
        ("Paris, France", "Paris, France"),
    ],
)
def test_articles_as_released(title, expected):
    assert released_article(title) == expected


@given(st.text(max_size=20), st.sampled_from(["The", "A", "An", "La", "L'"]))
def test_moving_an_article_only_reorders(title, article):
    moved = move_article(f"{title}, {article}")
    assert sorted(moved.replace(" ", "")) in (
        sorted(f"{title}{article}".replace(" ", "")),
        sorted(f"{title},{article}".replace(" ", "")),
    )


def test_empty_titles_are_named_by_their_id_in_one_warning(make_config, tmp_path, caplog):
    path = write_items(tmp_path, ["Alpha", "", " \u200f ", "Beta"])
    item_file = path / "toy/toy.item"
    item_file.write_text("".join(line for line in item_file.open() if not line.startswith("i3")))
    with caplog.at_level(logging.WARNING):
        found = titles_of(make_config, path)
    assert found == {"i0": "Alpha", "i1": "item i1", "i2": "item i2", "i3": "item i3"}
    warnings = [record for record in caplog.records if "named by their id" in record.message]
    assert len(warnings) == 1 and "3 of 4 items have no title" in warnings[0].message
    assert "i1, i2, i3" in warnings[0].message


def test_titles_do_not_add_items(make_config, tmp_path):
    path = write_items(tmp_path, ["Alpha", "Beta"])
    with open(path / "toy/toy.item", "a") as file:
        file.write("i77\tNobody saw this\n")
    assert set(titles_of(make_config, path)) == {"i0", "i1"}


def test_the_first_of_two_lines_for_an_item_counts_and_titles_may_repeat(make_config, tmp_path):
    path = write_items(tmp_path, ["Same", "Same"])
    with open(path / "toy/toy.item", "a") as file:
        file.write("i0\tOther\n")
    assert titles_of(make_config, path) == {"i0": "Same", "i1": "Same"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Royce da 5\'9"""', "Royce da 5'9\""),
        ('"Lisa ""Left Eye"" Lopes"', 'Lisa "Left Eye" Lopes'),
        ('"Weird Al" Yankovic', '"Weird Al" Yankovic'),
        ('"Heroes"', '"Heroes"'),
        ('"A" and "B"', '"A" and "B"'),
        ('""', '""'),
        ('say ""hi""', 'say ""hi""'),
    ],
)
def test_csv_quotes_are_undone_only_where_they_are_certain(tmp_path, written, read):
    path = tmp_path / "a.item"
    path.write_text(f"item_id:token\tname:token\n1\t{written}\n")
    assert read_titles(path, "item_id", "name") == {"1": read}


def test_windows_files_short_lines_and_other_separators(tmp_path):
    path = tmp_path / "a.item"
    path.write_bytes("\ufeffitem_id:token,year:float,name:token\r\n1,1990,One\r\n\r\n2,1991\r\n".encode())
    assert read_titles(path, "item_id", "name", separator=",") == {"1": "One", "2": ""}


def test_bad_files_are_named_with_the_remedy(make_config, tmp_path):
    path = write_items(tmp_path, ["Alpha"])
    with pytest.raises(
        ValueError, match=r"toy.item has no column 'name' \(key item_text_field\); it has: item_id, title"
    ):
        titles_of(make_config, path, item_text_field="name")
    with pytest.raises(ValueError, match="item_text_field is not set.*item_text_field: title"):
        titles_of(make_config, path, item_text_field=None)
    file = path / "toy/toy.item"
    file.write_text("item_id:token\ttitle:token\ni0\ta\tb\n")
    with pytest.raises(ValueError, match=r"toy.item, line 2: 3 columns where the header has 2"):
        titles_of(make_config, path)
    file.write_bytes("item_id:token\ttitle:token\ni0\tCafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match="toy.item: byte 32 is not utf-8 text; set `encoding`"):
        titles_of(make_config, path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="toy.item not found: prompts need item titles"):
        titles_of(make_config, path)


def test_ml_100k(make_config):
    config = make_config(dataset="ml-100k", item_text_field="movie_title", move_article=True)
    dataset = SequentialDataset(config)
    titles = load_titles(config, dataset)
    found = dict(zip(dataset.field2id_token["item_id"].tolist(), titles, strict=True))
    assert found["12"] == "The Usual Suspects" and found["1"] == "Toy Story"
    assert len(titles) == 1683 and not [title for title in titles if title.endswith((", The", ", A", ", An"))]
    assert len(titles) - len(set(titles)) == 23  # pairs of items that share a title
