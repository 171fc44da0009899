"""What a benchmark is asked for: an order on the command line, and the opened request behind it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models.base import RankerConfig
from models.evaluation import Holdout, Split, leave_one_out_split, temporal_split
from models.fitting import FitConfig
from models.kept_memory import keep_freed_memory
from models.sequences import Ints, SequenceStore
from models.text_vectors import TextVectors
from pipelines.benchmark_settings import split_settings
from pipelines.benchmark_text import text_vectors
from pipelines.errors import InputError, input_errors
from pipelines.io.dataset import Dataset, in_seconds, read_dataset
from pipelines.settings.groups import VectorSettings

PROTOCOLS = ("temporal", "leave-one-out")


@dataclass(frozen=True)
class Order:
    """A benchmark as the command line asks for it.

    Attributes:
        dataset: Folder with `events.parquet`.
        ranker: Name in the registry.
        protocol: "temporal" or "leave-one-out".
        seeds: Runs with seeds that follow one another; more than one adds a summary.
        threads: CPU threads for torch.
        cpu_seconds: Stop training at that much process CPU time; None stops on validation.
        settings: Settings of the ranker or of the training recipe, as text.
        out: JSON file to write.
        first_seed: The first run's seed.
        vectors: The encoder, for rankers that take text vectors.
        texts: Parquet file and column of texts to add to those of `items.parquet`, by `item_id`.
    """

    dataset: Path
    ranker: str
    protocol: str
    seeds: int
    threads: int
    cpu_seconds: float | None
    settings: dict[str, str]
    out: Path
    first_seed: int = 0
    vectors: VectorSettings = VectorSettings()
    texts: tuple[Path, str] | None = None


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        text: Vectors of all items, later ones too, where the ranker takes any.
    """

    dataset: Dataset
    ranker: str
    protocol: str
    config: RankerConfig
    recipe: FitConfig
    threads: int
    text: TextVectors | None = None

    @property
    def repeats_allowed(self) -> bool:
        """Whether the main numbers rank seen items along with the rest."""
        return self.protocol == "temporal"


def open_request(order: Order) -> tuple[Request, Split]:
    """Check an order and read what it names.

    Raises:
        InputError: If the dataset, ranker, protocol or a setting is not usable.
    """
    if order.protocol not in PROTOCOLS:
        raise InputError(f"--protocol {order.protocol!r}: known are temporal and leave-one-out")
    for name, number in (("--seeds", order.seeds), ("--threads", order.threads)):
        if number < 1:
            raise InputError(f"{name} {number}: at least 1 is needed")
    writable_file("--out", order.out)
    config, recipe = split_settings(order.ranker, order.protocol, order.cpu_seconds, order.settings)
    data = read_dataset(order.dataset)
    if order.protocol == "temporal" and data.order_only:
        raise InputError(
            f"{order.dataset}/events.parquet: ts counts positions, not time; "
            "use --protocol leave-one-out"
        )
    torch.set_num_threads(order.threads)
    keep_freed_memory()
    request = Request(data, order.ranker, order.protocol, config, recipe, order.threads)
    split, old_ids = trained_items_first(_split(request))
    if getattr(config, "text_vectors", None) is not None:
        names = data.items[old_ids - 1].tolist()
        text = text_vectors(order.dataset, names, order.vectors, order.texts)
        request = replace(request, text=text)
    return request, split


def writable_file(option: str, file: Path) -> None:
    """Refuse a file that could not be written once hours of work are done.

    Raises:
        InputError: If its folder does not exist, or a folder stands in its place.
    """
    if not file.parent.is_dir():
        raise InputError(f"{option} {file}: folder {file.parent} does not exist")
    if file.is_dir():
        raise InputError(f"{option} {file} is a folder: name a file")


def _split(request: Request) -> Split:
    store = request.dataset.store
    cut = temporal_split if request.protocol == "temporal" else leave_one_out_split
    with input_errors(f"{request.dataset.name}/events.parquet"):
        split = cut(store)
    if not len(split.test) or not len(split.validation):
        raise InputError(
            f"{request.dataset.name}/events.parquet: {len(split.validation)} users to validate and "
            f"{len(split.test)} to test under the {request.protocol} protocol: too few"
        )
    return Split(
        in_seconds(split.train),
        *(replace(one, history=in_seconds(one.history)) for one in (split.validation, split.test)),
    )


def trained_items_first(split: Split) -> tuple[Split, Ints]:
    """Number the training items 1..N and all later ones above: weights never hear of those.

    Returns:
        The split, and the old id of item 1, 2, ...
    """
    _, places = split.train.flat_events()
    store = split.train
    top = max(int(store.items.max()), 1)
    known = np.unique(store.items[places])
    later = np.setdiff1d(np.arange(1, top + 1), known)
    new_id = np.zeros(top + 1, dtype=np.int32)
    old_ids = np.concatenate([known, later]).astype(np.int64)
    new_id[old_ids] = np.arange(1, top + 1)
    items = new_id[store.items]

    def moved(rows: SequenceStore) -> SequenceStore:
        return SequenceStore(items, rows.times, rows.actions, rows.starts, rows.stops, rows.users)

    def held(part: Holdout) -> Holdout:
        return Holdout(moved(part.history), new_id[part.targets].astype(np.int64))

    return Split(moved(store), held(split.validation), held(split.test)), old_ids
