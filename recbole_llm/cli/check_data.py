"""What a dataset holds and what a run makes of it: recbole-llm data check NAME [--model=LLaRA] [--key=value ...]

To be run before a long training. Everything is read by the code that runs read it by, under the settings given,
which are those of `run`. Nothing is trained; of the LLM only the tokenizer is opened, and where it is not here, tokens and the
example prompt are left out. Exit code: 0, 1 where something would stop a run, 2 where there are no interactions to read.
"""

from __future__ import annotations

import copy
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from recbole.data import create_dataset
from recbole.data import utils as recbole_data

from recbole_llm import registry
from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.config.loader import LLMConfig
from recbole_llm.data.columns import history_field
from recbole_llm.data.field_text import field_texts, shown_names
from recbole_llm.data.filters import rows_dropped
from recbole_llm.data.interactions import brings_histories, interaction_files, load_interactions
from recbole_llm.data.item_text import titles_and_unnamed
from recbole_llm.data.rows import expected_phases
from recbole_llm.data.tokens import PromptTokenizer
from recbole_llm.llm.tokenizer import load_tokenizer
from recbole_llm.model.explain import prompt_text
from recbole_llm.registry import is_plugin_model

FAULTS = (ValueError, OSError, ImportError)  # what a run ends with
SHOWN = 3  # examples of each kind
NAMES = 17  # width of the column of names
Lines = Iterator[tuple[str, str]]


def check_dataset(config) -> tuple[list[tuple[str, str]], list[str]]:
    """([(what is told of, finding)], [errors of the parts that could not be made]).

    Raises:
        ValueError, FileNotFoundError: the interactions cannot be read.
    """
    dataset = load_interactions(config)
    lines, errors = list(interaction_lines(config, dataset)), []
    of_prompts = (field_lines, prompt_lines) if is_plugin_model(config["model"]) else ()
    for part in (title_lines, split_lines, candidate_lines, *of_prompts):
        if part is prompt_lines and errors:
            break
        try:
            lines += part(config, dataset)
        except FAULTS as error:
            errors.append(str(error))
    return lines, errors


def interaction_lines(config, dataset) -> Lines:
    """Counts, what filters drop, lengths of histories, equal times, repeated pairs; of a dataset that is not yet built."""
    feat, user, item = dataset.inter_feat, dataset.uid_field, dataset.iid_field
    users, items = (np.asarray(feat[name], dtype=np.int64) for name in (user, item))
    listed = history_field(config)
    lists = [np.asarray(row, dtype=np.int64) for row in feat[listed]] if brings_histories(config) else []
    n_items = len(np.unique(np.concatenate([items, *lists])))
    yield "files", ", ".join(str(file) for file in interaction_files(config))
    yield "interactions", f"{len(feat):,} of {len(np.unique(users)):,} users and {n_items:,} items"
    for told in rows_dropped(dataset, "inter"):
        yield "filters", told
    lengths = np.array([len(row) for row in lists]) if lists else np.bincount(users)
    yield "history lengths", _spread(lengths[lengths > 0])
    if dataset.time_field in feat and not lists:
        yield "equal times", _equal_times(feat[user], feat[dataset.time_field])
    twice = int(feat.duplicated([user, item]).sum())
    yield "duplicates", f"{_of(twice, len(feat))} rows repeat an earlier pair of user and item (rm_dup_inter: {config['rm_dup_inter']})"


def title_lines(config, dataset) -> Lines:
    """Items without titles, titles that several items share, the longest titles."""
    titles, unnamed = titles_and_unnamed(config, dataset)
    named = f": {', '.join(unnamed[:SHOWN])}{' ...' if len(unnamed) > SHOWN else ''}, which prompts call item <id>" if unnamed else ""
    yield "without titles", f"{_of(len(unnamed), len(titles) - 1)} items{named}"
    shared = {title: n for title, n in Counter(map(str.casefold, titles[1:])).items() if n > 1}
    few = ", ".join(f"{title!r} of {n}" for title, n in sorted(shared.items(), key=lambda pair: -pair[1])[:SHOWN])
    yield "shared titles", f"{len(shared):,}{f': {few}' if few else ''}"
    yield "longest titles", _longest(dataset, titles, np.array([len(title) for title in titles]), "characters")


def field_lines(config, dataset) -> Lines:
    """What prompts say of the first user and the first item by `prompt_fields`."""
    for side in ("user", "item"):
        if shown_names(config, side):
            yield f"{side} fields", repr(field_texts(config, dataset, side)[1])


def split_lines(config, dataset) -> Lines:
    """Rows of each phase, and what runs read of them."""
    counts = registry.protocol(config["protocol"]).phase_counts(config, dataset)
    for phase, count in counts.items():
        if phase != "train" and phase not in expected_phases(config):
            continue
        size = config[f"{phase}_sample_size"]
        size = round(size * count) if isinstance(size, float) and size <= 1 else size
        sampled = f", of which {phase}_sample_size takes {size:,}" if size is not None and size < count else ""
        yield f"{phase} rows", f"{count:,}{sampled}"


def candidate_lines(config, dataset) -> Lines:
    """What test rows are ranked among, with the digest that result files hold."""
    protocol = registry.protocol(config["protocol"])
    found = protocol.measured_on(config)
    of = f" of {found['count']:,}" if found["count"] else ""
    what = str(found["count"]) if protocol.among_candidates else f"{protocol.ranks(found['count'])}{of}"
    yield "candidates", f"{what}, sha256 {found['sha256']}"


def prompt_lines(config, _) -> Lines:
    """Titles in tokens, and a training prompt with its answer; nothing but the reason where there is no tokenizer."""
    try:
        tokenizer = load_tokenizer(config)
    except FAULTS as error:
        yield "prompt", f"not shown, nor tokens: {error}"
        return
    one = copy.copy(config)
    one.final_config_dict = {**config.final_config_dict, "train_sample_size": 1, "users_per_list": 1}
    dataset = create_dataset(one)
    lengths = PromptTokenizer(tokenizer, dataset.titles, title_max_tokens=sys.maxsize).lengths()
    lengths[0] = 0  # padding
    yield "", _longest(dataset, dataset.titles, lengths, "tokens")
    cut = int((lengths > config["title_max_tokens"]).sum())
    yield "cut titles", f"{_of(cut, len(lengths) - 1)} are longer than title_max_tokens: {config['title_max_tokens']}"
    prompt, n_tokens, answer = example_prompt(one, dataset)
    yield "prompt", f"{n_tokens} tokens, [id] and [user] being behaviour tokens; the answer is {answer!r}\n\n{prompt}"


def example_prompt(config, dataset) -> tuple[str, int, str]:
    """(text, length in tokens, answer) of a training prompt, with behaviour tokens as the end of a curriculum has them."""
    loader = recbole_data.get_dataloader(config, "train")(config, dataset.build()[0], None)
    loader.set_epoch(0)
    (key,) = next(iter(loader.batches))
    batch = loader.batch([replace(key, hybrid=True, history=True)])
    tokens, names = dataset.prompt_tokenizer, dataset.field2id_token[dataset.iid_field]
    answer = tokens.tokenizer.decode(batch["answer_ids"][0])
    return prompt_text(tokens, names, batch), int(batch["prompt_mask"][0].sum()), answer


def _of(n: int, total: int) -> str:
    return f"{n:,} of {total:,} ({100 * n / max(1, total):.2g}%)"


def _spread(lengths: np.ndarray) -> str:
    low, middle, high = np.percentile(lengths, (0, 50, 90), method="nearest")
    return f"shortest {low:,}, median {middle:,}, mean {lengths.mean():.1f}, 90% up to {high:,}, longest {lengths.max():,}"


def _equal_times(users: pd.Series, times: pd.Series) -> str:
    """Which interactions, and which users' latest ones, the times leave in the file's order."""
    rows = pd.DataFrame({"user": users, "time": times})
    equal = int(rows.duplicated(keep=False).sum())
    latest = rows[rows["time"] == rows.groupby("user")["time"].transform("max")]
    tied = int((latest.groupby("user").size() > 1).sum())
    return (f"{_of(equal, len(rows))} interactions have the time of another of the same user; for {tied:,} of {users.nunique():,} users the "
            "latest is one of them, and the file's order decides")  # fmt: skip


def _longest(dataset, titles, lengths: np.ndarray, unit: str) -> str:
    """The longest titles, by internal item id."""
    ids = dataset.field2id_token[dataset.iid_field]
    best = np.argsort(-lengths, kind="stable")[:SHOWN]
    return f"{unit}: " + "; ".join(f"{lengths[i]:,} {textwrap.shorten(titles[i], 60, placeholder=' ...')!r} ({ids[i]})" for i in best if i)


def report(config, lines, errors) -> str:
    """The findings as text."""
    head = f"{config['dataset']} as {config['model']} reads it, protocol {config['protocol']}"
    body = [f"{name:<{NAMES}}{finding}" for name, finding in lines]
    return "\n".join([head, *body, *(f"\nerror: {error}" for error in errors)])


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if set(arguments) & {"-h", "--help"} else 2
    try:
        options = parse_command_line([f"--dataset={arguments[0]}", *arguments[1:]])
        refuse_unread(options, "data check")
        config = LLMConfig(options.model or "LLaRA", options.dataset, options.config_files, None, options.options)
        lines, errors = check_dataset(config)
    except FAULTS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(config, lines, errors))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
