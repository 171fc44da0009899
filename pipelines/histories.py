"""Read a sequences partition as flat arrays, whole or one worker's shard of it.

Shape legend: R rows (users), E events.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.evaluation import Split, temporal_split
from models.sequences import SequenceStore
from pipelines.errors import InputError, NotBuiltYet
from pipelines.io.lake import Lake
from pipelines.settings.groups import TrainSettings

COLUMNS = ["user_id", "item_idx", "action", "ts"]
SECOND_US = 1_000_000


@dataclass(frozen=True)
class Shard:
    """The rows of one worker: users whose id hashes to `rank` among `world`."""

    rank: int = 0
    world: int = 1

    def mask(self, users: pa.Array) -> pa.Array | None:
        """Mark the shard's users, or None where it holds everybody."""
        if self.world == 1:
            return None
        picks = [zlib.crc32(user.encode()) % self.world == self.rank for user in users.to_pylist()]
        return pa.array(picks, pa.bool_())


def read_histories(
    lake: Lake, ds: str, actions: tuple[str, ...], shard: Shard | None = None
) -> SequenceStore:
    """Stream a sequences partition into a store ordered by user.

    Args:
        lake: where the table is; its version is recorded.
        ds: the partition.
        actions: names that get the codes 1, 2, ...; any other is 0.
        shard: which users to keep; everybody where None.

    Raises:
        InputError: the partition has no rows.
    """
    require_sequences(lake, ds)
    lake.run.used("sequences", ds, lake.content("sequences", ds))
    pieces = [
        piece_of(batch, actions, shard or Shard()) for batch in _batches(lake, ds) if batch.num_rows
    ]
    lengths = np.concatenate([piece[1] for piece in pieces])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    items, times, codes = (np.concatenate([piece[i] for piece in pieces]) for i in (2, 3, 4))
    users = np.concatenate([piece[0] for piece in pieces])
    store = SequenceStore.from_arrays(items, offsets, times, codes, users)
    # File order is an accident of the build; the order of users is not.
    return store.sorted_by_user().compact()


def action_names(lake: Lake, ds: str) -> tuple[str, ...]:
    """Every action in a sequences partition, sorted: the vocabulary of a new ranker."""
    require_sequences(lake, ds)
    found: set[str] = set()
    for batch in _batches(lake, ds, ["action"]):
        found.update(pc.unique(pc.list_flatten(batch["action"])).to_pylist())
    return tuple(sorted(found))


def split_histories(
    store: SequenceStore, settings: TrainSettings, cuts: tuple[int, int] | None = None
) -> Split:
    """Cut a store in time: training, then validation users, then test users."""
    return temporal_split(store, cuts or time_cuts(store, settings))


def time_cuts(store: SequenceStore, settings: TrainSettings) -> tuple[int, int]:
    """Find the two unix times that leave the settings' shares of events before them.

    Raises:
        InputError: there are too few events to hold any out.
    """
    times = np.sort(store.times)
    first = int(settings.train_share * len(times))
    second = int((settings.train_share + settings.validation_share) * len(times))
    if len(times) < 10 or second >= len(times):
        raise InputError(
            f"{len(times)} events cannot be cut at train.train_share={settings.train_share} and "
            f"train.validation_share={settings.validation_share}: nothing would be left to test on"
        )
    return int(times[first]), int(times[second])


def require_sequences(lake: Lake, ds: str) -> None:
    """Refuse a night whose sequences were not built.

    Raises:
        NotBuiltYet: names the step that is missing.
    """
    if ds not in lake.partitions("sequences"):
        raise NotBuiltYet(
            f"table sequences has no partition {ds}: run reckoner build-sequences --partition {ds}"
        )


def _batches(lake: Lake, ds: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    dataset = lake.dataset("sequences")
    yield from dataset.to_batches(columns=columns or COLUMNS, filter=pc.field("ds") == ds)


def piece_of(
    batch: pa.RecordBatch, actions: tuple[str, ...], shard: Shard
) -> tuple[
    npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]
]:
    """Turn one Arrow batch into users, lengths [R] and items, times, actions [E]."""
    mask = shard.mask(batch["user_id"])
    if mask is not None:
        batch = batch.filter(mask)
    users = np.array(batch["user_id"].to_pylist(), dtype=object)
    lengths = pc.list_value_length(batch["item_idx"]).to_numpy(zero_copy_only=False)
    items = pc.list_flatten(batch["item_idx"]).to_numpy(zero_copy_only=False)
    micros = pc.list_flatten(batch["ts"]).cast(pa.int64()).to_numpy(zero_copy_only=False)
    names = pc.list_flatten(batch["action"])
    codes = pc.index_in(names, value_set=pa.array(actions, pa.string()))
    codes = pc.add(pc.fill_null(codes, -1), 1).to_numpy(zero_copy_only=False)
    return users, lengths.astype(np.int64), items, micros // SECOND_US, codes
