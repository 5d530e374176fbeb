"""Which candidate an answer names, on made-up titles and on arbitrary ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.evaluation.generation_metrics import generation_report, match_candidate, named_candidates

MOVIES = [(1, "Toy Story"), (2, "Toy Story 2"), (3, "Alien"), (4, "Aliens"), (5, "Alien 3"), (6, "The Matrix")]


@pytest.mark.parametrize("item, title", MOVIES)
def test_an_exact_title_names_its_candidate(item, title):
    for answer in (title, f" {title}\n", f'I recommend "{title}".', title.upper(), f"Answer: {title}, of course"):
        assert named_candidates(answer, MOVIES) == [item]


@pytest.mark.parametrize(
    "answer, named",
    [
        ("", []),
        ("Alienation", []),
        ("Inaliens", []),
        ("Toy", []),
        ("Toy  Story\t2", [2]),
        ("Toy Story 2 or Toy Story", [2, 1]),
        ("Toy Story and Toy Story", [1]),
        ("Alien, Aliens", [4, 3]),
        ("Alien 3 Alien 3", [5]),
        ("The The Matrix", [6]),
        ("Toy Alien 3 Story", [5]),
    ],
)
def test_named_candidates(answer, named):
    assert named_candidates(answer, MOVIES) == named
    assert match_candidate(answer, MOVIES) == (named[0] if len(named) == 1 else None)


def test_an_answer_is_its_first_line():
    """As in the evaluators released with LLaRA and iLoRA."""
    for answer in ("Toy Story\n\nHeat is also good, or Alien", "\n\n  Toy Story \r\nAlien", "I say: Toy Story\nToy Story 2"):
        assert match_candidate(answer, MOVIES) == 1
    assert named_candidates("None of these.\nAlien", MOVIES) == []
    report = generation_report(["Alien\nor Toy Story", "maybe\nAlien"], [MOVIES] * 2, [3, 3])
    assert report == {"valid_ratio": 0.5, "hit@1_valid": 1.0, "hit@1_all": 0.5, "n": 2}


def test_equal_titles_stand_for_the_first_candidate():
    twins = [(7, "Emma"), (8, "Sabrina"), (9, "Emma"), (5, "EMMA")]
    assert match_candidate("Emma", twins) == 7
    assert match_candidate("it is emma", twins) == 7
    assert match_candidate("EMMA", twins) == 5
    assert match_candidate("EMMA", list(reversed(twins))) == 5
    assert match_candidate("Emma or Sabrina", twins) is None


@pytest.mark.parametrize(
    "titles, answer, named",
    [
        (["!!!", "AC/DC"], "My pick: !!! (Chk Chk Chk)", ["!!!"]),
        (["C++ (2001)", "C+"], "c++ (2001)", ["C++ (2001)"]),
        (["$9.99", ".hack"], "buy $9.99 now", ["$9.99"]),
        (["攻壳机动队", "千と千尋"], "答案是攻壳机动队。", ["攻壳机动队"]),
        (["攻壳", "千と千尋"], "攻千と千尋壳", ["千と千尋"]),
        (["Amélie", "Am"], "AME\u0301LIE", ["Amélie"]),
        (["שלום", "👻"], "I say 👻!", ["👻"]),
        ([r"\d+", "a.c"], "abc 123", []),
        (["", "  ", "Up"], "Up", ["Up"]),
        (["A B", "B C D"], "A B C D", ["B C D"]),
        (["New York", "Old York New"], "old york new york", ["Old York New"]),
    ],
)
def test_odd_titles(titles, answer, named):
    assert named_candidates(answer, [(title, title) for title in titles]) == named


TITLES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=8)
WORDS = st.lists(st.sampled_from(["toy", "story", "2", "alien", "aliens", "the", "-"]), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(TITLES, st.data())
def test_every_perfect_answer_is_valid(titles, data):
    titles = [title for title in titles if title.split()] or ["x"]
    target = data.draw(st.integers(0, len(titles) - 1))
    found = match_candidate(titles[target], list(enumerate(titles)))
    assert found is not None and " ".join(titles[found].split()) == " ".join(titles[target].split())
    assert found == target or found < target


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=8, unique=True), st.data())
def test_a_title_in_a_sentence_is_valid(titles, data):
    target = data.draw(st.integers(0, len(titles) - 1))
    assert match_candidate(f'They will watch: "{titles[target]}"', list(enumerate(titles))) == target


def test_report():
    candidates = [MOVIES] * 4
    report = generation_report(["Alien", "Aliens", "nothing", "Alien or Aliens"], candidates, [3, 3, 3, 3])
    assert report == {"valid_ratio": 0.5, "hit@1_valid": 0.5, "hit@1_all": 0.25, "n": 4}
    assert generation_report(["?"], [MOVIES], [3]) == {
        "valid_ratio": 0.0,
        "hit@1_valid": None,
        "hit@1_all": 0.0,
        "n": 1,
    }


def test_report_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        generation_report([], [], [])
    with pytest.raises(ValueError, match="2, 1, 2"):
        generation_report(["a", "b"], [MOVIES], [1, 2])
    with pytest.raises(ValueError, match="row 1: the target 99"):
        generation_report(["a", "b"], [MOVIES] * 2, [1, 99])
