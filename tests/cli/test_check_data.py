"""The check of a dataset tells what its files hold, by the code that runs read them by."""

import re

import pytest

from recbole_llm import LLMConfig, __main__
from recbole_llm.cli import check_data
from recbole_llm.data.candidate_sets import candidate_sets
from tests import tiny
from tests.data.case_files import HEADER, ITEMS, STEPS, USERS, items, write

TITLES = {3: "", 4: "", 5: "", 6: "", 7: "Title 8", 9: "A very long title of many words " * 4}
NO_LLM = ["--llm_path=/not/here"]


def odd_files() -> dict[str, str]:
    """u0's latest two at one time; u1 repeats its first item; four items without a title, two with the same."""
    rows = [(u, (7 * u + 3 * step) % ITEMS, 1000 + step) for u in range(USERS) for step in range(STEPS)]
    rows[STEPS - 1] = (*rows[STEPS - 1][:2], 1000 + STEPS - 2)
    rows.append((1, 7, 2000))
    lines = [f"u{u}\ti{item}\t{time}" for u, item, time in rows]
    return {"inter": "\n".join([HEADER, *lines]) + "\n", "item": items(lambda i: TITLES.get(i, f"Title {i}"))}


def arguments(folder, out, *more):
    settings = {"data_path": folder, "checkpoint_dir": out, "item_text_field": "title", "n_candidates": 8, "show_progress": False}
    given = [f"--{key}={value}" for key, value in settings.items()]
    return ["data", "check", "case", *given, "--load_col={inter: [user_id, item_id, timestamp]}", *more]


def checked(capsys, *given) -> tuple[int, dict[str, str], str]:
    """(exit code, findings by name, standard error) of the command."""
    code = __main__.main(list(given))
    out, err = capsys.readouterr()
    return code, {line[: check_data.NAMES].strip(): line[check_data.NAMES :] for line in out.partition("\n\n")[0].splitlines()[1:]}, out + err


def test_what_the_files_hold_is_counted(tmp_path, capsys):
    write(tmp_path, odd_files())
    given = arguments(tmp_path, tmp_path / "out", "--rm_dup_inter=null", *NO_LLM)
    code, found, text = checked(capsys, *given)
    assert code == 0, text
    assert found["files"] == str(tmp_path / "case/case.inter")
    assert found["interactions"] == "109 of 12 users and 40 items"
    assert found["history lengths"] == "shortest 9, median 9, mean 9.1, 90% up to 9, longest 10"
    assert found["equal times"].startswith("2 of 109 (1.8%) interactions have the time of another of the same user; for 1 of 12 users")
    assert found["duplicates"].startswith("1 of 109 (0.92%) rows repeat")
    assert found["without titles"] == "4 of 40 (10%) items: i3, i4, i5 ..., which prompts call item <id>".replace("i3, i4, i5", unnamed(text))
    assert found["shared titles"] == "1: 'title 8' of 2"
    assert found["longest titles"].startswith("characters: 127 'A very long title of many words A very long title of ...' (i9); 8 'Title ")
    assert (found["train rows"], found["valid rows"], found["test rows"]) == ("73", "12", "12")
    config = LLMConfig("LLaRA", "case", command_line={"data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "out"), "n_candidates": 8,
                                                      "item_text_field": "title", "rm_dup_inter": None, "llm_path": "/not/here"})  # fmt: skip
    assert found["candidates"] == f"8, sha256 {candidate_sets(config).test.sha256}"
    assert found["prompt"].startswith("not shown, nor tokens: llm_path") and "cut titles" not in found


def unnamed(text: str) -> str:
    """The three ids that are named, which are in the order of the interactions."""
    three = re.search(r"items: (i\d+, i\d+, i\d+) \.\.\.", text)[1]
    assert set(three.split(", ")) < {"i3", "i4", "i5", "i6"}
    return three


def test_filters_and_samples_say_what_they_leave(tmp_path, capsys):
    write(tmp_path, odd_files())
    more = ["--rm_dup_inter=first", "--user_inter_num_interval=[9,inf)", "--train_sample_size=0.5", "--test_sample_size=5"]
    code, found, text = checked(capsys, *arguments(tmp_path, tmp_path / "out", *more, "--val_interval={timestamp: '[1001,3000]'}", *NO_LLM))
    assert code == 2 and "no row of .inter is left" in text and "left 96 of 108 rows" in text
    code, found, text = checked(capsys, *arguments(tmp_path, tmp_path / "out", *more, *NO_LLM))
    assert code == 0 and found["filters"] == "rm_dup_inter: first left 108 of 109 rows"
    assert found["train rows"] == "72, of which train_sample_size takes 36" and found["test rows"] == "12, of which test_sample_size takes 5"


@pytest.mark.parametrize("model", ["LLaRA", "RecLoRA"])
def test_an_example_prompt_is_shown_with_its_slots(tiny_data, tiny_llm, tmp_path, capsys, model):
    more = [f"--model={model}", f"--data_path={tiny_data}", f"--llm_path={tiny_llm}", "--title_max_tokens=5", "--behaviour_tokens=both"]
    given = arguments(tiny_data, tmp_path, *more, "--user_token=True")
    given[2:4] = ["tiny"]
    code, found, text = checked(capsys, *given)
    assert code == 0, text
    prompt = text.partition("\n\n")[2]
    shown = re.findall(r" ([A-Z]\w+ \w+)(?:\[| \(\[)(i\d+)\]", prompt)
    titles = dict(line.split("\t") for line in (tiny_data / "tiny/tiny.item").read_text().splitlines()[1:])
    assert len(shown) >= 9 if model == "LLaRA" else len(shown) >= 2
    assert all(titles[item].startswith(title) for title, item in shown) and prompt.count("[user]") == 1
    tokens, answer = re.match(r"(\d+) tokens, .* the answer is '(.*)'", found["prompt"]).groups()
    assert int(tokens) > 50 and answer.strip().endswith("</s>" if model == "LLaRA" else ("Y", "N"))
    assert re.search(r"tokens: \d+ '", text) and found["cut titles"].endswith("are longer than title_max_tokens: 5")


def test_titles_that_are_missing_are_told_beside_the_rest(tmp_path, capsys):
    files = odd_files() | {"item": items(name=lambda i: f"{i}.0")}
    write(tmp_path, files)
    code, found, text = checked(capsys, *arguments(tmp_path, tmp_path / "out", *NO_LLM))
    assert code == 1 and "error: no item of the interactions has a title" in text and found["test rows"] == "12"


def test_fields_of_prompts_are_read_without_a_tokenizer(tmp_path, capsys):
    tiny.write_fields(tiny.write_dataset(tmp_path, "case"), "case")
    given = arguments(tmp_path, tmp_path / "out", *NO_LLM)
    code, found, text = checked(capsys, *given, "--prompt_fields={user: [age, gender], item: [{year: from}]}")
    assert code == 0 and found["user fields"] == "\"This user's profile: age 20, gender F. \"", text
    assert re.fullmatch(r"' \(from 199\d\)'", found["item fields"]) and found["prompt"].startswith("not shown")
    code, found, text = checked(capsys, *given, "--prompt_fields={user: [salary]}")
    assert code == 1 and re.search(r"error: prompt_fields: .*case\.user has no column 'salary'; it has user_id, age", text)
    assert "prompt" not in found and found["test rows"] == "40"
    code, found, text = checked(capsys, *given, "--prompt_fields={user: [salary]}", "--model=SASRec")  # which has no prompts
    assert code == 0 and "user fields" not in found, text


def test_baselines_have_no_prompt_and_labelled_rows_a_digest(tmp_path, capsys):
    tiny.write_dataset(tmp_path, "case")
    code, found, text = checked(capsys, *arguments(tmp_path, tmp_path / "out", "--model=SASRec"))
    assert code == 0 and "prompt" not in found and found["test rows"] == "40", text
    more = ["--model=RecLoRA", "--protocol=ctr", "--threshold={rating: 3}", "--load_col={inter: [user_id, item_id, rating, timestamp]}"]
    given = [word for word in arguments(tmp_path, tmp_path / "out") if not word.startswith("--load_col")]
    code, found, text = checked(capsys, *given, *more, *NO_LLM)
    assert code == 0 and re.fullmatch(r"labelled rows, sha256 [0-9a-f]{64}", found["candidates"]), text


def test_bad_calls_are_sentences(tmp_path, capsys):
    assert check_data.main([]) == 2 and check_data.main(["--help"]) == 0
    assert "recbole-llm data check NAME" in capsys.readouterr().out
    code, _, text = checked(capsys, *arguments(tmp_path, tmp_path, "--n_candidate=3"))
    assert code == 2 and "n_candidate" in text and "did you mean" in text.lower()
    code, _, text = checked(capsys, *arguments(tmp_path, tmp_path, *NO_LLM))
    assert code == 2 and "case.inter" in text and "not found" in text
