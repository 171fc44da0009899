"""Score every user with Ray Data actors, which stage their own lists.

A task is a slice of a sequences file: actors read it, score it in batches and leave one staged
Parquet file per slice. Only file names and counts travel back.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import structlog

from models.base import Ranker
from models.kept_memory import keep_freed_memory
from models.registry import from_spec, to_spec
from models.sequences import SequenceStore
from models.text_vectors import TextVectors
from pipelines.bought import Bought
from pipelines.histories import COLUMNS, Shard, piece_of
from pipelines.io.cluster import ray_cluster
from pipelines.io.lake import Lake
from pipelines.io.staging import StagedFile, stage_file, table_files
from pipelines.lists import Histories, Ints, ListRules, Shelf, make_lists
from pipelines.settings import Settings

log = structlog.get_logger()

USERS_PER_TASK = 20_000


@dataclass(frozen=True)
class Task:
    """Rows `start` to `stop` of one row group; or users without a history, listed."""

    path: str = ""
    group: int = 0
    start: int = 0
    stop: int = 0
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outfit:
    """What every actor works with; stored once per node.

    Attributes:
        spec: how to build the champion, None without one.
        state: its weights.
        newcomers: text vectors of items newer than the champion, where it takes them.
        bought: older items per user that the histories no longer hold.
    """

    spec: dict[str, Any] | None
    state: Mapping[str, Any]
    newcomers: TextVectors | None
    actions: tuple[str, ...]
    shelf: Shelf
    rules: ListRules
    bought: Bought
    lake_uri: str
    storage_options: dict[str, str]
    ds: str
    batch_size: int


def outfit_for(
    ranker: Ranker | None,
    newcomers: TextVectors | None,
    actions: tuple[str, ...],
    shelf: Shelf,
    rules: ListRules,
    bought: Bought,
    lake: Lake,
    ds: str,
    batch_size: int,
) -> Outfit:
    """Pack what actors need."""
    spec = None if ranker is None else to_spec(ranker)
    state = {} if ranker is None else dict(ranker.state_dict())
    storage = lake.storage_options
    return Outfit(
        spec, state, newcomers, actions, shelf, rules, bought, lake.uri, storage, ds, batch_size
    )


def score_on_ray(
    outfit: Outfit, lake: Lake, without_history: list[str], settings: Settings
) -> list[StagedFile]:
    """Stage every user's list; returns the files in a fixed order."""
    tasks = _tasks(lake, outfit.ds, without_history)
    lake.ensure("recommendations")
    staged: list[StagedFile] = []
    with ray_cluster(settings.ray):
        resources: dict[str, Any] = {"num_gpus": 1} if settings.ray.use_gpu else {"num_cpus": 1}
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        dataset = ray.data.from_items(
            [asdict(task) for task in tasks], override_num_blocks=len(tasks)
        )
        dataset = dataset.map_batches(
            ScoringActor,
            fn_constructor_args=(ray.put(outfit),),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(settings.recommend.num_actors, len(tasks))),
            **resources,
        )
        for done, row in enumerate(dataset.iter_rows(), start=1):
            staged.append(StagedFile(**{**row, "content": int(row["content"])}))
            log.info("scored", tasks=f"{done}/{len(tasks)}", rows=sum(f.rows for f in staged))
    return sorted(staged, key=lambda file: file.path)


class ScoringActor:
    """Holds the champion and turns tasks into staged files."""

    def __init__(self, outfit: Any) -> None:
        keep_freed_memory()
        self._outfit: Outfit = ray.get(outfit)
        self._ranker: Ranker | None = None
        if self._outfit.spec is not None:
            self._ranker = from_spec(self._outfit.spec)
            self._ranker.load_state_dict(dict(self._outfit.state))
            self._ranker.eval()
            if self._outfit.newcomers is not None:
                size = len(self._outfit.shelf.item_ids) - 1
                self._ranker.welcome(self._outfit.newcomers, size)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the one task of a batch."""
        outfit = self._outfit
        files = []
        for row in batch.to_pylist():
            task = Task(**{**row, "users": tuple(row["users"] or ())})
            lists = (
                make_lists(self._ranker, histories, outfit.shelf, outfit.rules)
                for histories in self._histories(task)
            )
            uri = f"{outfit.lake_uri.rstrip('/')}/recommendations"
            staged = stage_file("recommendations", uri, outfit.storage_options, outfit.ds, lists)
            if staged is not None:
                files.append({**asdict(staged), "content": str(staged.content)})
        schema = pa.schema(
            [
                ("path", pa.string()),
                ("size", pa.int64()),
                ("rows", pa.int64()),
                ("content", pa.string()),
                ("stats", pa.string()),
            ]
        )
        return pa.Table.from_pylist(files, schema=schema)

    def _histories(self, task: Task) -> Iterator[Histories]:
        """Read a task's users in batches."""
        size = self._outfit.batch_size
        if task.users:
            for first in range(0, len(task.users), size):
                users = list(task.users[first : first + size])
                empty = SequenceStore.from_lists([[] for _ in users])
                yield Histories(users, empty, [[] for _ in users], self._bought(users))
            return
        uri = f"{self._outfit.lake_uri.rstrip('/')}/sequences"
        with table_files(uri, self._outfit.storage_options).open_input_file(task.path) as stream:
            rows = pq.ParquetFile(stream).read_row_group(task.group, columns=COLUMNS)
        rows = rows.slice(task.start, task.stop - task.start)
        for first in range(0, rows.num_rows, size):
            yield self._read(rows.slice(first, size).combine_chunks())

    def _read(self, rows: pa.Table) -> Histories:
        batch = rows.to_batches()[0]
        users, lengths, items, times, codes = piece_of(batch, self._outfit.actions, Shard())
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        store = SequenceStore.from_arrays(items, offsets, times, codes, users)
        names = list(users)
        return Histories(names, store, batch["action"].to_pylist(), self._bought(names))

    def _bought(self, users: list[str]) -> list[Ints]:
        return [self._outfit.bought.of(user) for user in users]


def _tasks(lake: Lake, ds: str, without_history: list[str]) -> list[Task]:
    """Cut the partition's files into slices, and the users without history into groups."""
    tasks = []
    store = table_files(lake.table_uri("sequences"), lake.storage_options)
    for path in lake.files("sequences", [ds]):
        with store.open_input_file(path) as stream:
            metadata = pq.ParquetFile(stream).metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        for group, size in enumerate(sizes):
            for start in range(0, size, USERS_PER_TASK):
                tasks.append(Task(path, group, start, min(start + USERS_PER_TASK, size)))
    for first in range(0, len(without_history), USERS_PER_TASK):
        tasks.append(Task(users=tuple(without_history[first : first + USERS_PER_TASK])))
    return tasks
