"""What MkDocs runs while it builds the site: generated tables, drawn flowcharts, and no request to another host."""

import re
from pathlib import Path

import flow
import reference
from mkdocs.exceptions import PluginError

_PICTURE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.IGNORECASE)
_KEPT = re.compile(r"<link\b[^>]*\brel=[\"']?(?:canonical|edit)", re.IGNORECASE)


def on_config(config):
    """The leaderboards' pages, which are made from result files, join the navigation."""
    pages = sorted(Path(config["docs_dir"], "leaderboards").glob("*.md"))
    for entry in config["nav"]:
        if "Leaderboards" in entry:
            entry["Leaderboards"] = ["leaderboards.md", *({page.stem.replace(".", ", "): f"leaderboards/{page.name}"} for page in pages)]
    return config


def on_page_markdown(markdown, page, config, files):
    """Tables and pictures; what is wrong with one fails the build."""
    try:
        return _PICTURE.sub(lambda found: flow.svg(found[1]), reference.fill(markdown))
    except (ValueError, KeyError) as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_build(config):
    """A page that would load something from another host fails the build."""
    for file in sorted(Path(config["site_dir"]).rglob("*.html")):
        text = file.read_text(encoding="utf-8")
        loaded = [found[1] for found in _LOADED.finditer(text) if not _KEPT.match(found[0])]
        loaded += ["a drawer of Mermaid's language"] * (' class="mermaid"' in text)  # the theme's script would fetch it
        if loaded:
            raise PluginError(f"{file} loads {', '.join(sorted(set(loaded))[:3])} from another host")
