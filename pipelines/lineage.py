"""Which partitions were built from inputs that have changed since, and why.

Every publish records what it read. A record's key is one of
- `table/ds`: the fingerprint of that partition's rows, null where it had none;
- `table/first..last`: every other date of that range, which had no rows;
- `settings/group`: a digest of the settings that shape the contents.
Only commit metadata is read here, never rows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.io.lake import Lake
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings
from pipelines.tables import CONTRACTS

SETTINGS = "settings"
# Settings that change how a table is built but never what it holds.
WITHOUT_EFFECT = {
    "sequences": {"merge_yesterday"},
    "vectors": {"batch_size"},
    "semantic_ids": {"max_drift"},
}
# Raised when a job's code changes what it derives from the same inputs and settings.
METHODS = {"sequences": 1, "graph": 1}
# What a night without training derives.
BUILT_BY_A_NIGHT = (
    "sequences",
    "item_graph",
    "item_vectors",
    "semantic_ids",
    "recommendations",
    "monitoring",
)
REASONS_SHOWN = 5

Inputs = dict[str, str | None]


@dataclass(frozen=True)
class Stale:
    """A partition whose inputs have changed since it was built."""

    table: str
    ds: str
    reasons: tuple[str, ...]


def settings_digest(settings: Settings, group: str) -> str:
    """Fingerprint a group of settings together with the method that reads them."""
    values = getattr(settings, group).model_dump(
        mode="json", exclude=WITHOUT_EFFECT.get(group, set())
    )
    text = json.dumps([METHODS.get(group, 1), values], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def use_settings(run: Run, settings: Settings, group: str) -> None:
    """Record that the partition being built depends on a group of settings."""
    run.inputs[f"{SETTINGS}/{group}"] = settings_digest(settings, group)


def use_window(lake: Lake, table: str, first: Partition, last: Partition) -> list[str]:
    """Record every partition of a range of dates as read and list those that have rows."""
    contents = lake.contents(table)
    present = [ds for ds in contents if first.ds <= ds <= last.ds]
    lake.run.used(table, f"{first.ds}..{last.ds}", None)
    for ds in present:
        lake.run.used(table, ds, contents[ds])
    return present


@dataclass
class Lineage:
    """The lake's state at one moment, held against what its partitions recorded."""

    lake: Lake
    settings: Settings
    _known: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    _recorded: dict[tuple[str, str], Inputs] = field(default_factory=dict)
    _contents: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def reasons(self, table: str, ds: str) -> tuple[str, ...]:
        """Say why a partition is stale: an input differs, or is itself stale; empty if fresh."""
        pending = [(table, ds)]
        while pending:  # not recursive: a chain of nights is as long as the history
            name, day = pending[-1]
            if (name, day) in self._known:
                pending.pop()
                continue
            inputs = self.recorded(name, day)
            unknown = [
                key
                for key in self._derived(inputs)
                if key not in self._known and key not in pending
            ]
            if unknown:
                pending += unknown
                continue
            self._known[name, day] = self._judge(inputs)
            pending.pop()
        return self._known[table, ds]

    def changed_inputs(self, table: str, ds: str) -> list[str]:
        """Say which recorded inputs of a partition differ from what is there now."""
        return self._changes(self.recorded(table, ds))

    def is_fresh(self, table: str, ds: str) -> bool:
        """Say whether a partition was published and none of what it was built from has changed."""
        return ds in self.lake.published(table) and not self.reasons(table, ds)

    def recorded(self, table: str, ds: str) -> Inputs:
        """What a partition was built from, as its commit recorded it."""
        if (table, ds) not in self._recorded:
            text = self.lake.provenance(table, ds).get("inputs")
            self._recorded[table, ds] = json.loads(text) if text else {}
        return self._recorded[table, ds]

    def _judge(self, inputs: Inputs) -> tuple[str, ...]:
        stale = [
            f"{table}/{ds} is itself stale"
            for table, ds in self._derived(inputs)
            if self._known.get((table, ds))
        ]
        return tuple(self._changes(inputs) + stale)

    def _derived(self, inputs: Inputs) -> list[tuple[str, str]]:
        """The inputs that are single partitions and record inputs of their own."""
        found = []
        for key in inputs:
            table, ds = key.split("/", 1)
            if table in CONTRACTS and ".." not in ds and self.recorded(table, ds):
                found.append((table, ds))
        return found

    def _changes(self, inputs: Inputs) -> list[str]:
        found = []
        for key, before in inputs.items():
            table, name = key.split("/", 1)
            if table == SETTINGS:
                if settings_digest(self.settings, name) != before:
                    found.append(f"the settings under {name} have changed")
            elif table not in CONTRACTS:
                continue
            elif ".." in name:
                first, last = name.split("..")
                days = [ds for ds in self._now(table) if first <= ds <= last]
                appeared = [f"{table}/{ds}" for ds in days if f"{table}/{ds}" not in inputs]
                found += [f"{day} has appeared" for day in appeared]
            elif (now := self._now(table).get(name)) != before:
                verb = "appeared" if before is None else "vanished" if now is None else "changed"
                found.append(f"{key} has {verb}")
        return found

    def _now(self, table: str) -> dict[str, str | None]:
        if table not in self._contents:
            self._contents[table] = self.lake.contents(table)
        return self._contents[table]


def stale_partitions(
    lake: Lake, settings: Settings, tables: Sequence[str] | None = None
) -> list[Stale]:
    """List every stale partition of the derived tables, oldest first.

    Args:
        lake: read at its newest versions.
        settings: those that a rebuild would use.
        tables: only these; all where None.
    """
    lake.refresh()
    lineage = Lineage(lake, settings)
    found = []
    for table in tables or CONTRACTS:
        if CONTRACTS[table].by_ds:
            for ds in lake.published(table):
                if reasons := lineage.reasons(table, ds):
                    found.append(Stale(table, ds, reasons))
    return sorted(found, key=lambda stale: (stale.ds, list(CONTRACTS).index(stale.table)))


def stale_nights(
    lake: Lake, settings: Settings, first: Partition, last: Partition
) -> list[Partition]:
    """List the nights from `first` to `last` with a stale partition, in the order to rebuild.

    Only what such a night builds counts: figures of an evaluation and people's interests have steps
    of their own, would stay stale, and the night would be rebuilt each time.
    """
    days = {stale.ds for stale in stale_partitions(lake, settings, BUILT_BY_A_NIGHT)}
    return [Partition.parse(ds) for ds in sorted(days) if first.ds <= ds <= last.ds]


def render_stale(found: Sequence[dict[str, Any]]) -> str:
    """Lay the stale partitions out for a person, with one reason a line."""
    if not found:
        return "nothing is stale"
    lines = []
    for stale in found:
        more = len(stale["reasons"]) - REASONS_SHOWN
        shown = list(stale["reasons"][:REASONS_SHOWN]) + ([f"... {more} more"] if more > 0 else [])
        lines += [f"{stale['table']:<20} {stale['ds']}  {reason}" for reason in shown]
    return "\n".join(lines)
