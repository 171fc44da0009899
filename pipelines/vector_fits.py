"""What is fitted on item vectors once, kept under a version, and applied every night since.

Fitting anew each night would give every item other coordinates and codes, and whatever was trained
on the old ones would read noise. So a fit is made on the first night that needs it, and again only
on demand. A night uses the newest fit made for that night or an earlier one, or else the oldest:
nights that are built again, in any order, find the fit that they had.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.io.lake import Lake
from pipelines.step import Context
from pipelines.tables.vectors import VECTOR_FITS

log = structlog.get_logger()

TABLE = VECTOR_FITS.name
Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Fit:
    """Something fitted.

    Attributes:
        kind: what it is, such as "pca".
        config: JSON of all that decides it beside the vectors.
        arrays: float32 arrays by name.
        num_items: how many vectors it was fitted on.
        figures: how good it was on these.
    """

    kind: str
    config: str
    arrays: Arrays
    num_items: int
    figures: Mapping[str, float]

    @property
    def version(self) -> str:
        """The kind and a digest of configuration and values: equal fits have equal versions."""
        digest = hashlib.blake2b(self.config.encode(), digest_size=4)
        for name in sorted(self.arrays):
            digest.update(name.encode() + np.ascontiguousarray(self.arrays[name]).tobytes())
        return f"{self.kind}-{digest.hexdigest()}"


def config_of(**values: Any) -> str:
    """Write what decides a fit, so that equal wishes give equal texts."""
    return json.dumps(values, sort_keys=True)


def find_fit(lake: Lake, kind: str, config: str, ds: str) -> Fit | None:
    """Find the fit that a night uses; None where there is none for this configuration."""
    rows = _matching(lake.read(TABLE), kind, config)
    return _read(_choose(rows, ds)) if rows else None


def ensure_fit(
    context: Context, kind: str, config: str, make: Callable[[], Fit], *, refit: bool = False
) -> Fit:
    """Find the fit that the night uses, or make it and keep it.

    Of two nights that make one at the same time the first to commit is kept, and both use it.

    Args:
        context: names the night; in a dry run nothing is kept.
        kind: what is wanted.
        config: what decides it.
        make: fits; called only where it must.
        refit: make one for this night even where there is one.
    """
    lake, ds = context.lake, context.ds
    found = find_fit(lake, kind, config, ds)
    if found is not None and not refit:
        return found
    fit = make()
    log.info("fitted", kind=kind, version=fit.version, items=fit.num_items, **fit.figures)
    if context.dry_run:
        return fit

    def unless_there(there: pa.Table) -> pa.Table:
        rows = _matching(there, kind, config)
        is_known = any(row["version"] == fit.version for row in rows)
        fresh = [] if is_known or (rows and not refit) else [_row(fit, ds)]
        return pa.Table.from_pylist(fresh, schema=VECTOR_FITS.schema)

    commit = lake.append(TABLE, unless_there)
    if commit.changed:
        context.run.wrote(TABLE, commit.version, commit.rows)
    lake.refresh(TABLE)
    kept = find_fit(lake, kind, config, ds)
    assert kept is not None
    return kept


def _matching(rows: pa.Table, kind: str, config: str) -> list[dict[str, Any]]:
    mine = pc.and_(pc.equal(rows["kind"], kind), pc.equal(rows["config"], config))
    found: list[dict[str, Any]] = rows.filter(mine).to_pylist()
    return found


def _choose(rows: list[dict[str, Any]], ds: str) -> dict[str, Any]:
    """Pick the newest row of the night or before, else the oldest."""
    by_night = sorted(rows, key=lambda row: (row["fitted_ds"], row["version"]))
    earlier = [row for row in by_night if row["fitted_ds"] <= ds]
    return earlier[-1] if earlier else by_night[0]


def _row(fit: Fit, ds: str) -> dict[str, Any]:
    names = sorted(fit.arrays)
    values = np.concatenate([fit.arrays[name].ravel() for name in names])
    return {
        "version": fit.version,
        "kind": fit.kind,
        "config": fit.config,
        "fitted_ds": ds,
        "num_items": fit.num_items,
        "figures": list(fit.figures.items()),
        "shapes": json.dumps({name: fit.arrays[name].shape for name in names}),
        "values": values.astype(np.float32),
    }


def _read(row: Mapping[str, Any]) -> Fit:
    values = np.array(row["values"], np.float32)
    arrays, first = {}, 0
    for name, shape in json.loads(row["shapes"]).items():
        size = int(np.prod(shape))
        arrays[name] = values[first : first + size].reshape(shape)
        first += size
    figures = dict(row["figures"])
    return Fit(row["kind"], row["config"], arrays, row["num_items"], figures)
