import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.data.prompt import Field, Item, Separator, UserToken, parse_template, render

FIELDS = ("history", "candidates")
TEMPLATE = parse_template("Watched:{history}. Choose:{candidates}. Answer:", FIELDS)


def text_of(segments):
    shown = {Separator(): ",", UserToken(): "<user>"}
    return "".join(s if isinstance(s, str) else f"<{s.id}>" if isinstance(s, Item) else shown[s] for s in segments)


def test_template_is_split_at_its_fields():
    assert TEMPLATE == ["Watched:", Field("history"), ". Choose:", Field("candidates"), ". Answer:"]


@pytest.mark.parametrize(
    "template, complaint",
    [
        ("{history}", r"missing fields \['candidates'\]"),
        ("{{history}}{candidates}", "doubled braces are no escape"),
        ("{history}{candidates}{histroy}", r"unknown fields \['histroy'\]"),
        ("{history}{candidates}{history}", r"repeated fields \['history'\]"),
    ],
)
def test_wrong_templates_are_refused(template, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_template(template, FIELDS)


def test_items_stand_in_order_with_separators():
    assert text_of(render(TEMPLATE, [3, 1], [7, 3, 9])) == "Watched:<3>,<1>. Choose:<7>,<3>,<9>. Answer:"


def test_an_empty_history_says_so():
    assert text_of(render(TEMPLATE, [], [7])) == "Watched: nothing yet. Choose:<7>. Answer:"


@pytest.mark.parametrize(
    "behaviour_tokens, expected",
    [("both", [3, 1, 7, 8]), ("history", [3, 1]), ("candidates", [7, 8]), ("none", [])],
)
def test_behaviour_tokens_choose_the_slots(behaviour_tokens, expected):
    segments = render(TEMPLATE, [3, 1], [7, 8], behaviour_tokens=behaviour_tokens)
    assert [s.id for s in segments if isinstance(s, Item) and s.slot] == expected


def test_the_user_token_stands_first_or_at_its_field():
    assert isinstance(render(TEMPLATE, [1], [2], user_token=True)[0], UserToken)
    placed = parse_template("Watched:{history}. User{user}. Choose:{candidates}.", FIELDS)
    assert text_of(render(placed, [1], [2], user_token=True)) == "Watched:<1>. User<user>. Choose:<2>."
    assert text_of(render(placed, [1], [2])) == "Watched:<1>. User. Choose:<2>."
    last = parse_template("Watched:{history}. Choose:{candidates}. Next:{user}", FIELDS)
    assert text_of(render(last, [1], [2], user_token=True)) == "Watched:<1>. Choose:<2>. Next:<user>"


@given(st.lists(st.integers(1, 99), max_size=12), st.lists(st.integers(1, 99), min_size=1, max_size=20))
def test_slots_number_the_items(history, candidates):
    segments = render(TEMPLATE, history, candidates)
    assert [s.id for s in segments if isinstance(s, Item) and s.slot] == history + candidates
