"""Reading a mapping file, and saying what is wrong with one."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.errors import InputError
from pipelines.ingest.mapping import Mapping
from pipelines.io.tree_file import read_tree


def load_mapping(path: str) -> Mapping:
    """Read a mapping file (YAML, TOML or JSON by its suffix).

    Raises:
        InputError: it cannot be read, or holds an unknown key or a wrong value.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"mapping {path!r} is not a file")
    try:
        values = read_tree(file)
    except ValueError as error:
        raise InputError(f"mapping {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not values:
        raise InputError(f"mapping {path} must hold a table `events`, `items` or both")
    try:
        return Mapping.model_validate(values)
    except ValidationError as error:
        raise InputError(f"mapping {path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """Say the first fault in one line; an unknown key names the nearest."""
    faults = error.errors()
    # A mistyped key shows twice: as unknown and as missing. The first is the one to mend.
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key {where}; the nearest known one is {near[0]}"
    if fault["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {fault.get('input')!r}: {fault['msg'].removeprefix('Value error, ')}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Mapping
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    for inner in getattr(kind, "__args__", ()):
        found = _model_in(inner)
        if found:
            return found
    return None
