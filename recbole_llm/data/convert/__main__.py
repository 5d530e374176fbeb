"""Command line of the converters.

python -m recbole_llm.data.convert lastfm [--source DIR] --target DIR [--force] [--sha256 HEX]
python -m recbole_llm.data.convert llara --source DIR --target DIR [--force]

Afterwards `--data_path=DIR` finds the dataset.
"""

import argparse
import sys

from recbole_llm.data.convert import lastfm, llara


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recbole_llm.data.convert", description=__doc__.split("\n")[0])
    converters = parser.add_subparsers(dest="converter", required=True, metavar="{lastfm,llara}")
    for name, module, required in (("lastfm", lastfm, False), ("llara", llara, True)):
        one = converters.add_parser(name, help=module.__doc__.split("\n")[0])
        one.add_argument(
            "--source",
            required=required,
            help="folder with the published files" + ("" if required else "; without it they are downloaded"),
        )
        one.add_argument("--target", default="dataset", help="folder that becomes data_path (default: dataset)")
        one.add_argument("--force", action="store_true", help="replace the dataset if it is there already")
        one.set_defaults(convert=module.convert)
        if name == "lastfm":
            one.add_argument("--sha256", help="accept an archive with this digest instead of the known one")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one converter; return 0, or 1 after printing an error that names the file and the remedy."""
    options = vars(_parser().parse_args(arguments))
    options.pop("converter")
    run = options.pop("convert")
    try:
        folder = run(**options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}; use it with --data_path={folder.parent} --dataset={folder.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
