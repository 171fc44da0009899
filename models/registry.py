"""Find rankers by name; each lives in one file of `models.rankers` and registers itself."""

import difflib
import importlib
import pkgutil
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

from models.base import Ranker, RankerConfig

_CLASSES: dict[str, type[Ranker]] = {}
RankerClass = TypeVar("RankerClass", bound=type[Ranker])


def register(ranker_class: RankerClass) -> RankerClass:
    """Enter a ranker class under its `name` (use as a decorator)."""
    known = _CLASSES.get(ranker_class.name)
    assert known is None or known.__qualname__ == ranker_class.__qualname__, ranker_class.name
    _CLASSES[ranker_class.name] = ranker_class
    return ranker_class


@cache
def _discover() -> None:
    package = importlib.import_module("models.rankers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"models.rankers.{module.name}")


def names() -> list[str]:
    """List the registered rankers, sorted."""
    _discover()
    return sorted(_CLASSES)


def ranker_class(name: str) -> type[Ranker]:
    """Look up a ranker class.

    Raises:
        ValueError: If no ranker has that name; the message gives the nearest and all known ones.
    """
    _discover()
    if name not in _CLASSES:
        raise ValueError(f"no ranker is named {name!r}; {_known(name, names())}")
    return _CLASSES[name]


def config_class(name: str) -> type[RankerConfig]:
    """Look up the settings class of a ranker."""
    return ranker_class(name).config_type


def configure(name: str, **overrides: Any) -> RankerConfig:
    """Build a ranker's settings from its defaults and the given ones.

    Raises:
        ValueError: If a setting is unknown (the nearest one is named) or its value does not fit.
    """
    config_type = config_class(name)
    for key in overrides:
        if key not in config_type.model_fields:
            hint = _known(key, sorted(config_type.model_fields))
            raise ValueError(f"{name} has no setting {key!r}; {hint}")
    try:
        return config_type(**overrides)
    except ValidationError as error:
        raise ValueError(f"{name}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """Say in a few words which setting is wrong, or that several do not go together."""
    first = error.errors()[0]
    if not first["loc"]:
        why = first["msg"].removeprefix("Value error, ")
        return f"these settings do not go together: {why}"
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}={first['input']!r}: {first['msg']}"


def build(name: str, num_items: int, **overrides: Any) -> Ranker:
    """Build a ranker for a catalogue of ids 1..num_items."""
    return ranker_class(name)(configure(name, **overrides), num_items)


def to_spec(ranker: Ranker) -> dict[str, Any]:
    """Describe a ranker as JSON-ready values: all but its weights."""
    return {
        "name": ranker.name,
        "num_items": ranker.num_items,
        "config": ranker.config.model_dump(mode="json"),
    }


def from_spec(spec: dict[str, Any]) -> Ranker:
    """Build the ranker that `to_spec` described, untrained.

    Raises:
        ValueError: If the spec lacks a key, or names an unknown ranker or setting.
    """
    missing = {"name", "num_items", "config"} - spec.keys()
    if missing:
        raise ValueError(f"ranker spec lacks {', '.join(sorted(missing))}")
    return build(spec["name"], spec["num_items"], **spec["config"])


def _known(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"nearest: {near[0]}; " if near else ""
    return f"{hint}known: {', '.join(known)}"
