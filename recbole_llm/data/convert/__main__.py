"""Command line of the converters.

python -m recbole_llm.data.convert NAME [--source DIR] [--target dataset] [--force] [--sha256 HEX]

Without --source the published files are downloaded. Afterwards `--data_path=TARGET --dataset=NAME` runs.
"""

import argparse
import sys

from recbole_llm.data.convert.convert import UnknownDataset, convert
from recbole_llm.data.convert.fetch import fetch, is_offline
from recbole_llm.data.convert.sources import source_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recbole_llm.data.convert", description=__doc__.split("\n")[0])
    parser.add_argument("name", metavar="NAME", help="a dataset: lastfm, ml-1m, steam, amazon-2023-Books ...")
    parser.add_argument("--source", help="folder or archive with the published files; without it they are downloaded")
    parser.add_argument("--target", default="dataset", help="folder that becomes data_path (default: dataset)")
    parser.add_argument("--force", action="store_true", help="replace the dataset if it is there already")
    parser.add_argument("--sha256", help="accept a download of one file with this digest instead of the known one")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one converter; return 0, or 1 after printing an error that names the file and the remedy."""
    options = _parser().parse_args(arguments)
    try:
        if options.source is not None:
            folder = convert(options.name, options.source, options.target, options.force)
        elif (source := source_of(options.name)) is None:
            raise UnknownDataset(options.name)
        else:
            folder = fetch(source, options.target, is_offline({"offline": False}), options.force, options.sha256)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}; use it with --data_path={folder.parent} --dataset={folder.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
