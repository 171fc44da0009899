"""The registry: versions of `reckoner-ranker` in MLflow, their weights and their aliases.

A version is a folder of a card (JSON), weights (safetensors) and the training curve (CSV). It is
rebuilt from the card and the weights alone; no pickled code is ever loaded.
"""

import csv
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from mlflow import MlflowClient, artifacts
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from sqlalchemy.exc import OperationalError
from torch import Tensor

from models.base import Ranker
from models.registry import from_spec
from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.reachable import require_answer
from pipelines.io.registry_file import create_whole
from pipelines.settings import Settings

log = structlog.get_logger()

MODEL = "reckoner-ranker"
CHALLENGER, CHAMPION = "challenger", "champion"
PREVIOUS = "previous_champion"
CARD, WEIGHTS, CURVE = "card.json", "weights.safetensors", "curve.csv"


class Card(BaseModel):
    """Everything about a version but its weights.

    Attributes:
        spec: the ranker's name, settings and catalogue size.
        recipe: the training set-up.
        partition: the night it was trained on.
        actions: names of the action codes 1, 2, ...
        index_version: version of `item_index` it was trained on.
        index_fingerprint: hash of the index's first `num_items` rows.
        input_versions: version of every table read.
        inputs: content hash of every partition read.
        cuts: unix times before which training and validation events lie.
        metrics: per slice, `metric: [value, low, high]` on the test users.
        curve: one row per epoch.
        environment: library versions and the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: dict[str, Any]
    recipe: dict[str, Any]
    partition: str
    actions: tuple[str, ...]
    index_version: int
    index_fingerprint: str
    input_versions: dict[str, int]
    inputs: dict[str, str | None]
    cuts: tuple[int, int]
    metrics: dict[str, dict[str, tuple[float, float | None, float | None]]]
    curve: list[dict[str, float]]
    environment: dict[str, str]
    code_version: str

    @property
    def ranker_name(self) -> str:
        """The ranker's name."""
        return str(self.spec["name"])


class Registry:
    """The registered model and its aliases, in the MLflow that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self.tracking_uri, self.artifact_root = addresses(settings)
        if self.tracking_uri.startswith("http"):
            require_answer("MLflow", self.tracking_uri, "RECKONER_MLFLOW__TRACKING_URI")
        with reaching(self.tracking_uri):
            create_whole(self.tracking_uri)
            self._client = MlflowClient(self.tracking_uri, self.tracking_uri)

    def register(self, card: Card, weights: dict[str, Tensor], tags: dict[str, str]) -> str:
        """Store a trained ranker as a new version and point `challenger` at it."""
        with reaching(self.tracking_uri):
            run = self._client.create_run(self._experiment(), run_name=card.partition)
            run_id = run.info.run_id
            self._log(run_id, card)
            with tempfile.TemporaryDirectory() as folder:
                _write(Path(folder), card, weights)
                self._client.log_artifacts(run_id, folder, "ranker")
            self._client.set_terminated(run_id)
            version = self._client.create_model_version(
                MODEL,
                source=f"{run.info.artifact_uri}/ranker",
                run_id=run_id,
                tags=tags
                | {
                    "ranker": card.ranker_name,
                    "recipe": str(card.recipe["name"]),
                    "partition": card.partition,
                    "index_version": str(card.index_version),
                    "input_versions": json.dumps(card.input_versions),
                    "code_version": card.code_version,
                },
            )
        self.challenge(str(version.version))
        return str(version.version)

    def challenge(self, version: str) -> None:
        """Point `challenger` at a version."""
        with reaching(self.tracking_uri):
            self._client.set_registered_model_alias(MODEL, CHALLENGER, version)

    def with_tag(self, key: str, value: str) -> str | None:
        """The newest version that carries a tag, or None."""
        with reaching(self.tracking_uri):
            found = self._client.search_model_versions(f"name='{MODEL}'")
        matching = [str(one.version) for one in found if one.tags.get(key) == value]
        return max(matching, key=int, default=None)

    def resolve(self, reference: str) -> str:
        """Turn an alias or a version number into a version number.

        Raises:
            InputError: there is none.
        """
        version = self.find(reference)
        if version is None:
            raise InputError(
                f"{MODEL} has no version or alias {reference!r}; "
                f"train one with reckoner train-ranker (known: {', '.join(self.known()) or 'none'})"
            )
        return version

    def find(self, reference: str) -> str | None:
        """Like `resolve`, but None where there is none."""
        with reaching(self.tracking_uri):
            try:
                if reference.isdigit():
                    return str(self._client.get_model_version(MODEL, reference).version)
                return str(self._client.get_model_version_by_alias(MODEL, reference).version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def known(self) -> list[str]:
        """Every version and alias, such as `3` or `champion -> 2`."""
        with reaching(self.tracking_uri):
            versions = self._client.search_model_versions(f"name='{MODEL}'")
            numbers = sorted((str(version.version) for version in versions), key=int)
            if not numbers:
                return []
            aliases = self._client.get_registered_model(MODEL).aliases
            return [*numbers, *(f"{alias} -> {number}" for alias, number in aliases.items())]

    def card(self, version: str) -> Card:
        """Read a version's card."""
        with self._folder(version) as folder:
            return Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))

    def load(self, version: str) -> tuple[Ranker, Card]:
        """Rebuild a version's ranker, in evaluation mode on the CPU.

        Raises:
            InputError: a file is missing, or the weights do not fit the card.
        """
        with self._folder(version) as folder:
            try:
                card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
                ranker = from_spec(card.spec)
                ranker.load_state_dict(load_file(folder / WEIGHTS))
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"{MODEL} version {version} cannot be loaded: {error}") from error
        return ranker.eval(), card

    def promote(self, version: str) -> str | None:
        """Make a version champion; return the previous champion, which a tag remembers."""
        previous = self.find(CHAMPION)
        with reaching(self.tracking_uri):
            if previous is not None and previous != version:
                self._client.set_model_version_tag(MODEL, version, PREVIOUS, previous)
                self._client.set_registered_model_tag(MODEL, PREVIOUS, previous)
            self._client.set_registered_model_alias(MODEL, CHAMPION, version)
        return previous

    def rollback(self) -> tuple[str, str]:
        """Point `champion` back at the one before it; return (from, to).

        Raises:
            InputError: there is no champion, or none before it.
        """
        champion = self.resolve(CHAMPION)
        with reaching(self.tracking_uri):
            previous = self._client.get_model_version(MODEL, champion).tags.get(PREVIOUS)
        if previous is None:
            raise InputError(f"champion {champion} has no previous champion to go back to")
        self.resolve(previous)
        with reaching(self.tracking_uri):
            before = self._client.get_model_version(MODEL, previous).tags.get(PREVIOUS)
            if before is None:
                self._client.delete_registered_model_tag(MODEL, PREVIOUS)
            else:
                self._client.set_registered_model_tag(MODEL, PREVIOUS, before)
            self._client.set_registered_model_alias(MODEL, CHAMPION, previous)
        return champion, previous

    def note(self, version: str, key: str, value: str) -> None:
        """Put a tag on a version, such as the gate's verdict."""
        with reaching(self.tracking_uri):
            self._client.set_model_version_tag(MODEL, version, key, value[:4900])

    def _experiment(self) -> str:
        """The experiment's id; creates it and the model where they are missing.

        Looked for first: on a shared server others may have created both, and alone be allowed to.
        """
        if not self._client.search_registered_models(f"name='{MODEL}'", max_results=1):
            with _unless_there():
                self._client.create_registered_model(MODEL)
        if self._client.get_experiment_by_name(MODEL) is None:
            with _unless_there():
                self._client.create_experiment(MODEL, artifact_location=self.artifact_root)
        found = self._client.get_experiment_by_name(MODEL)
        assert found is not None, "it was there, or has just been created"
        return str(found.experiment_id)

    def _log(self, run_id: str, card: Card) -> None:
        flat = {f"recipe.{key}": str(value)[:250] for key, value in card.recipe.items()}
        flat |= {f"config.{key}": str(value)[:250] for key, value in card.spec["config"].items()}
        for key, value in flat.items():
            self._client.log_param(run_id, key, value)
        points = [
            Metric(f"curve/{name}", float(value), 0, int(row["epoch"]))
            for row in card.curve
            for name, value in row.items()
            if name != "epoch"
        ]
        for slice_name, values in card.metrics.items():
            for metric, (mean, low, high) in values.items():
                clean = f"test/{slice_name}/{metric.replace('@', '_at_')}"
                ends = {"": mean, "_ci_low": low, "_ci_high": high}
                points += [Metric(clean + end, v, 0, 0) for end, v in ends.items() if v is not None]
        for start in range(0, len(points), 500):
            self._client.log_batch(run_id, metrics=points[start : start + 500])

    @contextmanager
    def _folder(self, version: str) -> Iterator[Path]:
        with reaching(self.tracking_uri), tempfile.TemporaryDirectory() as scratch:
            source = self._client.get_model_version(MODEL, version).source
            local = artifacts.download_artifacts(
                artifact_uri=source, dst_path=scratch, tracking_uri=self.tracking_uri
            )
            yield Path(local)


@contextmanager
def _unless_there() -> Iterator[None]:
    """Create what another run may have created in the meantime."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _write(folder: Path, card: Card, weights: dict[str, Tensor]) -> None:
    (folder / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    names = sorted({name for row in card.curve for name in row})
    with (folder / CURVE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(card.curve)


def addresses(settings: Settings) -> tuple[str, str | None]:
    """The tracking URI and artifact root: beside a local lake unless set."""
    tracking, root = settings.mlflow.tracking_uri, settings.mlflow.artifact_root
    if tracking is None:
        if "://" in settings.lake_uri:
            raise InputError(
                f"the lake {settings.lake_uri} is remote: set RECKONER_MLFLOW__TRACKING_URI to "
                "your MLflow server"
            )
        home = Path(settings.lake_uri).absolute().parent
        home.mkdir(parents=True, exist_ok=True)
        tracking = f"sqlite:///{home / 'mlflow.db'}"
        root = root or str(home / "artifacts")
    return tracking, root


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn a dead server or database into exit 4."""
    try:
        yield
    except MlflowException as error:
        if error.error_code in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR") or "HTTP" in str(
            error
        ):
            raise ServiceUnavailable(f"MLflow at {uri} does not answer: {error}") from error
        raise
    except (OperationalError, ConnectionError) as error:
        raise ServiceUnavailable(f"MLflow at {uri} does not answer: {error}") from error
