"""Write docs/rankers.md from the rankers themselves: `python -m models.rankers_page`."""

import inspect
import json
import re
from collections.abc import Iterable

from pydantic import BaseModel

from models.recipe import FitConfig
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
    fitting = _listed(FitConfig, FitConfig.model_fields)
    lines += ["", "## Settings of training", "", f"{fitting}.", ""]
    lines += [
        "`seed` and `cpu_seconds` are options of `reckoner benchmark`; `--set` takes the rest."
    ]
    return "\n".join(lines) + "\n"


def _plain(doc: str | None) -> str:
    """A docstring's prose, without its argument lists."""
    prose = re.split(r"\n(?:Args|Attributes|Raises):\n", inspect.cleandoc(doc or ""))[0]
    return prose.strip()


def _own_settings(name: str) -> str:
    """The settings that not every sequence ranker has, or has otherwise, with their defaults."""
    config_type = config_class(name)
    shared = SequentialConfig.model_fields
    return _listed(
        config_type,
        (
            key
            for key, field in config_type.model_fields.items()
            if key not in shared or field.default != shared[key].default
        ),
    )


def _listed(config_type: type[BaseModel], keys: Iterable[str]) -> str:
    """Name settings with their defaults, written as `--set` takes them."""
    values = {key: config_type.model_fields[key].get_default() for key in keys}
    return ", ".join(
        f"`{key}={value if isinstance(value, str) else json.dumps(value)}`"
        for key, value in values.items()
    )


if __name__ == "__main__":
    print(rankers_page(), end="")
