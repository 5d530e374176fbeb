"""python -m recbole_llm.analysis NAME --dataset=NAME [--model=A,B] [--seeds=3] [--config_files "a.yaml b.yaml"] [--key=value ...]

  experts        gate weights of each sequence (iLoRA) or layer (RecLoRA), their entropy
  gradients      do unlike sequences pull an adapter apart? cosines of gradients by cluster
  experts-sweep  the number of experts
  gate           what the gate reads
  epochs         HR@1 and ValidRatio after each epoch
  shots          the number of training rows: --values=250,1000,4000
  history        the length of the history, against quality and seconds
  components     a model without each of its parts

python -m recbole_llm.analysis NAME --help tells the rest. With --recipe=paper runs are the papers'. RecLoRA alone is analysed under
protocol ctr unless you set another.
"""

from __future__ import annotations

import sys
from importlib import import_module

from recbole.utils import get_model

from recbole_llm.analysis.common import Request
from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.config.values import ConfigError
from recbole_llm.leaderboard.entries import as_list
from recbole_llm.leaderboard.plan import DEFAULT_SEED, seed_list
from recbole_llm.registry import check_model, is_plugin_model

NAMES = ("experts", "gradients", "experts-sweep", "gate", "epochs", "shots", "history", "components")
GATED = ("experts", "experts-sweep", "gate")


def analyse(name: str, request: Request, **options):
    """Run an analysis; its :class:`~recbole_llm.analysis.report.Report`.

    Args:
        options: over the analysis's own defaults (``OPTIONS`` of its module).

    Raises:
        ConfigError: an unknown option, or wrong settings of any run, before anything trains.
    """
    from recbole_llm.model.base import LLMRecommender

    module = _module(name)
    if unknown := sorted(options.keys() - module.OPTIONS.keys()):
        raise ConfigError([f"{key}: {name} has no such option, only {', '.join(module.OPTIONS) or 'none'}" for key in unknown])
    request.models = list(request.models or module.MODELS)
    for model in request.models:
        if not is_plugin_model(check_model(model)):
            raise ConfigError([f"model: {model} is no LLM recommender; the analyses are of LLaRA, iLoRA and RecLoRA"])
    if all(get_model(model).head.pointwise for model in request.models) and not request.sets("protocol"):
        request.settings["protocol"] = "ctr"  # what RecLoRA is for
    if name in GATED and (without := [model for model in request.models if get_model(model).gate is LLMRecommender.gate]):
        raise ConfigError([f"{name}: {model} has no gate, so there is nothing to compare; use iLoRA or RecLoRA" for model in without])
    return module.run(request, **{**module.OPTIONS, **options})


def _module(name: str):
    return import_module(f"recbole_llm.analysis.{name.replace('-', '_')}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in NAMES:
        print(f"error: {name!r} is no analysis; choose {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if "-h" in rest or "--help" in rest:
        print(_module(name).__doc__.strip())
        return 0
    try:
        request, options = parse_request(rest, _module(name).OPTIONS)
        report = analyse(name, request, **options)
        folder = folder_of(request, report)
        report.tell_origin(folder)
        files = report.write(folder)
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n" + report.text() + "\nwritten: " + ", ".join(map(str, files)))
    return 0


def parse_request(arguments: list[str], own: dict) -> tuple[Request, dict]:
    """(what every analysis reads, the options of this one) of a command line.

    Raises:
        ConfigError: no dataset, several of them, flags that no analysis reads, or what is no --key=value.
    """
    line = parse_command_line(arguments)
    refuse_unread(line, "an analysis", ["seeds"])
    if not line.dataset or "," in line.dataset:
        raise ConfigError(["dataset: give one, --dataset=NAME"])
    options = {key: line.options.pop(key) for key in list(line.options) if key in own}
    first = line.options.pop("seed", DEFAULT_SEED)
    seeds = seed_list(line.seeds, first) if line.seeds is not None else [first]
    return Request(line.dataset, as_list(line.model) or None, seeds, line.config_files, line.options), options


def folder_of(request: Request, report):
    """Where a report goes: beside its runs."""
    from recbole_llm.analysis.common import Case

    model = report.models[0]
    return request.config(Case(model, model), request.seeds[0])["result_dir"]


if __name__ == "__main__":
    sys.exit(main())
