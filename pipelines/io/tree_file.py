"""Files that a person writes: a tree of values as TOML, JSON or YAML."""

import json
import tomllib
from pathlib import Path
from typing import Any

import yaml


def read_tree(file: Path) -> Any:
    """Read a TOML or JSON file by its suffix; any other is YAML.

    Raises:
        ValueError: the text is not of that form, or not UTF-8; says where.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml":
        return tomllib.loads(text)
    if file.suffix == ".json":
        return json.loads(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
