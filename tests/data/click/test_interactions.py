import numpy as np
import pytest

from recbole_llm.data.click import rows as click_rows
from recbole_llm.data.click.rows import build_labelled_rows
from recbole_llm.evaluation.preparation import prepare_data
from tests.clicks import COLUMNS, write


def test_a_label_column_serves_as_well_as_a_rating(make, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"u{k % 9}\ti{k}\t{rng.integers(2)}\t{k}" for k in range(90)]
    own = write(tmp_path / "d", lines, COLUMNS.replace("rating", "label"))
    rows = build_labelled_rows(make(**own))
    labels = dict(line.split("\t")[1:3] for line in lines)
    assert all(int(labels[i]) == y for p in click_rows.PHASES for _, i, y in zip(*rows.columns(p), strict=True))


def test_data_without_labels_or_ratings_are_refused(make, tmp_path):
    columns = "user_id:token\titem_id:token\ttimestamp:float"
    own = write(tmp_path / "d", [f"u{k % 5}\ti{k}\t{k}" for k in range(60)], columns)
    with pytest.raises(
        ValueError, match=r"needs labels, and .*own.inter has the columns user_id, item_id, timestamp.*thresh"
    ):
        prepare_data(make(**own))


def test_odd_labels_name_a_few_and_the_remedy(make, tmp_path):
    lines = [f"u{k % 5}\ti{k}\t{k % 3}\t{k}" for k in range(60)]
    own = write(tmp_path / "d", lines, COLUMNS.replace("rating", "label"))
    with pytest.raises(ValueError, match=r"holds \[2.0\] where labels are 0 or 1; set threshold"):
        prepare_data(make(**own))


@pytest.mark.parametrize("column, kind", [("rating", "token"), ("label", "token"), ("rating", "float_seq")])
def test_ratings_and_labels_that_are_no_numbers_are_refused(column, kind, make, tmp_path):
    """RecBole numbers the values of a token column: 0.5, 5, 3 would be read as 1, 2, 3."""
    own = write(tmp_path / "d", [f"u{k % 5}\ti{k}\t{k % 2}\t{k}" for k in range(60)], COLUMNS.replace("rating:float", f"{column}:{kind}"))
    with pytest.raises(ValueError, match=f"own.inter: column '{column}' is declared {kind}.*write {column}:float"):
        prepare_data(make(**own))
