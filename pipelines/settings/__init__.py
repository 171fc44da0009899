"""Every setting, its default and its environment variable; unknown keys are errors.

A nested field is reached with a double underscore: `RECKONER_SPARK__MASTER` sets `spark.master`.
`RECKONER_SETTINGS` names a TOML, YAML or JSON file with the same tree; the environment wins.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipelines.errors import InputError, input_errors
from pipelines.io.tree_file import read_tree
from pipelines.settings.groups import (
    GateSettings,
    GraphSettings,
    InterestSettings,
    ItemSource,
    KnowledgeSettings,
    LaunchSettings,
    LlmSettings,
    MaintenanceSettings,
    MlflowSettings,
    RaySettings,
    RecommendSettings,
    SemanticIdSettings,
    SequenceSettings,
    Source,
    SparkSettings,
    TrainSettings,
    VectorSettings,
)

PREFIX = "RECKONER_"
FILE_VARIABLE = "RECKONER_SETTINGS"
# Variables that launchers set beside the settings; they are not part of the tree.
RESERVED = {FILE_VARIABLE, "RECKONER_ATTEMPT", "RECKONER_RUN_ID", "RECKONER_SHARED_DATA"}


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    lake_uri: str = Field(
        ".reckoner/lake", min_length=1, description="local path, s3://, gs:// or abfss://"
    )
    storage_options: dict[str, str] = Field(default_factory=dict, description="object store keys")
    code_version: str | None = Field(None, description="default: the installed version")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    events: Source = Source()
    items: ItemSource = ItemSource()
    sequences: SequenceSettings = SequenceSettings()
    graph: GraphSettings = GraphSettings()
    spark: SparkSettings = SparkSettings()
    ray: RaySettings = RaySettings()
    mlflow: MlflowSettings = MlflowSettings()
    train: TrainSettings = TrainSettings()
    gate: GateSettings = GateSettings()
    recommend: RecommendSettings = RecommendSettings()
    llm: LlmSettings = LlmSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    interests: InterestSettings = InterestSettings()
    vectors: VectorSettings = VectorSettings()
    semantic_ids: SemanticIdSettings = SemanticIdSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    launch: LaunchSettings = LaunchSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the settings file, which arrives as init values."""
        return env_settings, init_settings


def load_settings(lake_uri: str | None = None) -> Settings:
    """Read the settings file and the environment.

    Args:
        lake_uri: the command line's `--lake`, which wins over both.

    Raises:
        InputError: an unknown key (with the nearest known one) or a value out of range.
    """
    values = _read_file(os.environ.get(FILE_VARIABLE))
    _refuse_unknown(values, os.environ)
    try:
        settings = Settings(**values)
    except SettingsError as error:
        raise InputError(f"{_unreadable(error)}: {error.__cause__}") from error
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            _check_path(path, as_written=".".join(path), join=".".join)
        key = ".".join(path)
        raise InputError(f"setting {key} = {first.get('input')!r}: {first['msg']}") from error
    uri = lake_uri or settings.lake_uri
    # Workers run in folders of their own: a relative path would mean another lake there.
    return settings.model_copy(update={"lake_uri": uri if "://" in uri else os.path.abspath(uri)})


def _unreadable(error: SettingsError) -> str:
    """Name the variables of the group that the error speaks of: it names no single one."""
    group = re.findall(r'field "(\w+)"', str(error))
    wanted = tuple(PREFIX + name.upper() for name in group)
    names = [name for name in os.environ if name.upper().startswith(wanted)]
    return f"{' or '.join(names)}: lists and maps are written as JSON, such as '[\"view\"]'"


def known_keys() -> list[str]:
    """Every setting as a dotted path, such as `spark.master`."""
    return list(_leaves(Settings))


@cache
def _tree(model: type[BaseModel]) -> Mapping[str, type[BaseModel] | None]:
    groups: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        groups[name] = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return groups


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, group in _tree(model).items():
        if group is None:
            yield prefix + name
        else:
            yield from _leaves(group, f"{prefix}{name}.")


def _read_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{FILE_VARIABLE} names {path!r}, which is not a file")
    with input_errors(f"settings file {path}"):
        values = read_tree(file)
    if not isinstance(values, dict):
        raise InputError(f"settings file {path} must hold a table of settings")
    return values


def _refuse_unknown(values: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    for name in environment:
        if name.upper().startswith(PREFIX) and name not in RESERVED:
            path = name[len(PREFIX) :].lower().split("__")
            _check_path(path, as_written=name, join=_as_variable)
    for path in _paths(values):
        _check_path(path, as_written=".".join(path), join=".".join)


def _as_variable(path: list[str]) -> str:
    return PREFIX + "__".join(path).upper()


def _paths(values: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[list[str]]:
    for key, value in values.items():
        path = (*prefix, str(key))
        if isinstance(value, dict) and ".".join(path) not in known_keys():
            yield from _paths(value, path) if value else iter([list(path)])
        else:
            yield list(path)


def _check_path(path: list[str], as_written: str, join: Any) -> None:
    known = known_keys()
    dotted = ".".join(path)
    groups = {key.rsplit(".", 1)[0] for key in known if "." in key}
    if dotted in known or dotted in groups or ".".join(path[:-1]) in known:
        return  # the last form is one key of a free mapping, such as spark.conf
    nearest = difflib.get_close_matches(dotted, known, n=1, cutoff=0.0)[0]
    raise InputError(
        f"unknown setting {as_written}; the nearest known one is {join(nearest.split('.'))}"
    )
