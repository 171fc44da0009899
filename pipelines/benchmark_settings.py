"""Sort `--set key=value` pairs into the ranker's settings and the training recipe's."""

import difflib

from pydantic import ValidationError

from models import registry
from models.base import RankerConfig
from models.fitting import FitConfig
from pipelines.errors import InputError, input_errors
from pipelines.recipes import json_or_text

OWN_OPTIONS = {"seed": "--seeds", "cpu_seconds": "--cpu-seconds"}


def split_settings(
    ranker: str, protocol: str, cpu_seconds: float | None, settings: dict[str, str]
) -> tuple[RankerConfig, FitConfig]:
    """Check every setting against the ranker and, where it trains, against the recipe.

    Raises:
        InputError: If the ranker or a setting is unknown (the nearest is named) or does not fit.
    """
    with input_errors("--ranker"):
        ranker_type = registry.ranker_class(ranker)
    own = set(ranker_type.config_type.model_fields)
    recipe = set(FitConfig.model_fields) - set(OWN_OPTIONS) if ranker_type.is_trainable else set()
    for key in settings:
        if key in OWN_OPTIONS:
            raise InputError(f"--set {key}: use {OWN_OPTIONS[key]}")
        if key not in own | recipe:
            near = difflib.get_close_matches(key, sorted(own | recipe), n=1)
            hint = f"nearest: {near[0]}; " if near else ""
            known = ", ".join(sorted(own | recipe))
            raise InputError(f"--set {key}: {ranker} has no such setting; {hint}known: {known}")
    values = {key: json_or_text(text) for key, text in settings.items()}
    fit = {key: value for key, value in values.items() if key in recipe}
    # Early stopping watches what the protocol judges by.
    fit.setdefault("eval_seen", "allowed" if protocol == "temporal" else "excluded")
    try:
        config = ranker_type.config_type(**{k: v for k, v in values.items() if k in own})
        return config, FitConfig(**fit, cpu_seconds=cpu_seconds)
    except ValidationError as error:
        fault = registry.first_fault(error)
        key, _, rest = fault.partition("=")
        if key in OWN_OPTIONS:
            raise InputError(f"{OWN_OPTIONS[key]} {rest}") from error
        given = "--set " if error.errors()[0]["loc"] else f"{ranker}: "
        raise InputError(given + fault) from error
