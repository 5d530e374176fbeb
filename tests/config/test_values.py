"""Settings as plain values."""

from recbole_llm.config.values import read_yaml


def test_yaml_numbers_as_in_recbole(tmp_path):
    (tmp_path / "n.yaml").write_text("a: 1e-3\nb: 1.5e+3\nc: .5\nd: 2E5\ne: 1e\nf: 10\ng: 1:30\n")
    values = read_yaml(tmp_path / "n.yaml")
    assert values == {"a": 1e-3, "b": 1500.0, "c": 0.5, "d": 2e5, "e": "1e", "f": 10, "g": 90}
    assert type(values["f"]) is int
