"""Named training set-ups: a ranker, its settings and how it is fitted, as functions."""

import difflib
import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.fitting import FitConfig
from models.registry import config_class, configure, first_fault, names
from pipelines.errors import InputError


class Recipe(BaseModel):
    """A complete training set-up; it is stored with every version it produces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ranker: str
    ranker_settings: dict[str, Any]
    fit: FitConfig


def smoke() -> Recipe:
    """Train something real in a minute or two on one CPU: tests and the demo."""
    return Recipe(
        name="smoke",
        ranker="sasrec",
        ranker_settings={
            "dim": 64,
            "num_layers": 2,
            "num_heads": 2,
            "max_length": 32,
            "dropout": 0.2,
        },
        fit=FitConfig(batch_size=128, max_epochs=12, patience=2, lr=3e-3),
    )


def nightly() -> Recipe:
    """Train the ranker that a shop of up to 1e5 items publishes with; a CPU suffices."""
    return Recipe(
        name="nightly",
        ranker="rearec-prl",
        ranker_settings={"dim": 64, "num_layers": 2, "num_heads": 2, "max_length": 50},
        fit=FitConfig(batch_size=256, max_epochs=40, patience=4),
    )


def large() -> Recipe:
    """Train on GPUs: wider, longer, in bf16."""
    return Recipe(
        name="large",
        ranker="rearec-prl",
        ranker_settings={"dim": 256, "num_layers": 4, "num_heads": 4, "max_length": 200},
        fit=FitConfig(batch_size=1024, max_epochs=60, patience=5, precision="bf16"),
    )


def lares_rl() -> Recipe:
    """Train LARES and then refine it by rewards, kept only where validation gains."""
    return of_ranker("lares").model_copy(
        update={"name": "lares-rl", "ranker_settings": {"rollouts": 4}}
    )


def mancar_teacher() -> Recipe:
    """Train ManCAR's graph teacher without thoughts: what gained most in docs/benchmarks.md."""
    settings = {"reasoning_steps": 0, "teach_base": True, "num_layers": 3}
    return of_ranker("mancar").model_copy(
        update={"name": "mancar-teacher", "ranker_settings": settings}
    )


def of_ranker(ranker: str) -> Recipe:
    """Train any ranker with its own defaults, fitted as `nightly` is: every ranker is a recipe."""
    return Recipe(name=ranker, ranker=ranker, ranker_settings={}, fit=nightly().fit)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "smoke": smoke,
    "nightly": nightly,
    "large": large,
    "lares-rl": lares_rl,
    "mancar-teacher": mancar_teacher,
}


def recipe_named(name: str, overrides: dict[str, str] | None = None) -> Recipe:
    """Look a recipe or a ranker's own up and apply `key=value` overrides of its settings.

    Raises:
        InputError: the recipe or a key is unknown; the nearest known one is named.
    """
    recipes = [*sorted(RECIPES), *names()]
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown recipe {name!r}; the nearest is {near} of {recipes}")
    recipe = RECIPES[name]() if name in RECIPES else of_ranker(name)
    ranker_settings, fit = dict(recipe.ranker_settings), recipe.fit.model_dump()
    ranker = (overrides or {}).get("ranker", recipe.ranker)
    if ranker not in names():
        near = difflib.get_close_matches(ranker, names(), n=1, cutoff=0.0)[0]
        raise InputError(f"no ranker is named {ranker!r}; the nearest is {near} of {names()}")
    for key, value in (overrides or {}).items():
        if key == "ranker":
            continue
        if key in FitConfig.model_fields:
            fit[key] = json_or_text(value)
        elif key in config_class(ranker).model_fields:
            ranker_settings[key] = json_or_text(value)
        else:
            known = [*FitConfig.model_fields, *config_class(ranker).model_fields]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(f"recipe {name}: unknown setting {key!r}; the nearest is {near}")
    known_settings = {
        key: value
        for key, value in ranker_settings.items()
        if key in config_class(ranker).model_fields
    }
    try:
        fitted = FitConfig(**fit)
        configure(ranker, **known_settings)
    except ValueError as error:  # pydantic's errors are ValueErrors too
        raise InputError(f"recipe {name}: {_first_line(error)}") from error
    return Recipe(name=name, ranker=ranker, ranker_settings=known_settings, fit=fitted)


def json_or_text(text: str) -> Any:
    """Read a setting's value as JSON where it is JSON, as plain text otherwise."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _first_line(error: ValueError) -> str:
    return first_fault(error) if isinstance(error, ValidationError) else str(error)
