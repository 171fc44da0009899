"""Write docs/rankers.md from the rankers themselves: `python -m models.rankers_page`."""

import inspect
import re
from collections.abc import Iterable

from models.base import RankerConfig
from models.registry import config_class, names, ranker_class
from models.sequential import SequentialConfig


def rankers_page() -> str:
    """List every registered ranker with its docstring and its own settings, as Markdown."""
    lines = [
        "# Rankers",
        "",
        "Generated from `models/rankers/` by `python -m models.rankers_page`; do not edit.",
        "Where a paper leaves a detail open, the text says what was chosen, as an inference.",
        "",
        "| ranker | does | source |",
        "|---|---|---|",
    ]
    for name in names():
        found = ranker_class(name)
        lines.append(f"| [`{name}`](#{name}) | {found.method} | {found.source} |")
    for name in names():
        lines += ["", f"## {name}", "", _plain(ranker_class(name).__doc__), ""]
        lines += ["Settings of its own: " + (_own_settings(name) or "none") + "."]
    shared = _listed(SequentialConfig, SequentialConfig.model_fields)
    lines += ["", "## Settings that sequence rankers share", "", f"{shared}."]
    return "\n".join(lines) + "\n"


def _plain(doc: str | None) -> str:
    """A docstring's prose, without its argument lists."""
    prose = re.split(r"\n(?:Args|Attributes|Raises):\n", inspect.cleandoc(doc or ""))[0]
    return prose.strip()


def _own_settings(name: str) -> str:
    """The settings that not every sequence ranker has, with their defaults."""
    config_type = config_class(name)
    own = [key for key in config_type.model_fields if key not in SequentialConfig.model_fields]
    return _listed(config_type, own)


def _listed(config_type: type[RankerConfig], keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}={config_type.model_fields[key].default}`" for key in keys)


if __name__ == "__main__":
    print(rankers_page(), end="")
