"""Score every user with the champion, check the lists, publish them in one commit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from models.base import Ranker
from models.text_vectors import TextVectors
from pipelines.audit import SUBJECT, ListStatistics, band_checks, row_checks
from pipelines.catalogue_index import require_same_index
from pipelines.errors import GateRefused, InputError
from pipelines.io.ray_score import outfit_for, score_on_ray
from pipelines.io.staging import StagedFile, table_files
from pipelines.io.tracking import CHAMPION, MODEL, Registry
from pipelines.lists import POPULARITY, ListRules
from pipelines.monitoring import FAILED, Check, publish_checks
from pipelines.shelf import build_shelf
from pipelines.step import Context, Result
from pipelines.text_vectors import newcomers
from pipelines.users import Audience, find_audience

log = structlog.get_logger()

AUDITED = ["user_id", "rank", "item_id", "score", "source"]


@dataclass(frozen=True)
class Champion:
    """The version that scores tonight, resolved once; without one, popularity stands in.

    Attributes:
        newcomers: text vectors of the items that the version scores by their text alone.
    """

    ranker: Ranker | None
    actions: tuple[str, ...]
    name: str
    version: str
    newcomers: TextVectors | None = None


def run(context: Context, top_k: int | None = None) -> Result:
    """Publish the night's lists.

    Args:
        context: the step's.
        top_k: list length; default `recommend.top_k`.

    Raises:
        InputError: no sequences, or the champion was trained on another item index or
            with another text encoder.
        GateRefused: a check failed; yesterday's lists stay.
    """
    settings = context.settings.recommend
    champion = resolve_champion(context)
    context.run.model_version = champion.version
    audience = find_audience(context)
    shelf = build_shelf(context, _allowed_file(settings.allowed_items))
    rules = ListRules(
        top_k=top_k or settings.top_k,
        allow_repeats=settings.allow_repeats,
        model_name=champion.name,
        model_version=champion.version,
        generated_at=context.partition.end if context.partition else None,
    )
    about = {
        "model": champion.name,
        "version": champion.version,
        "users": len(audience.users),
        "items_allowed": int(shelf.allowed.sum()),
        "top_k": rules.top_k,
    }
    if champion.newcomers is not None:
        about["items_by_text"] = len(champion.newcomers.ids_X)
    log.info("scoring", **about)
    outfit = outfit_for(
        champion.ranker,
        champion.newcomers,
        champion.actions,
        shelf,
        rules,
        audience.bought,
        context.lake,
        context.ds,
        settings.batch_size,
    )
    staged = score_on_ray(outfit, context.lake, audience.without_history, context.settings)
    allowed = pa.array(np.asarray(shelf.item_ids, dtype=object)[shelf.allowed], pa.string())
    checks, found = _audit(context, staged, audience, allowed, rules.top_k, champion)
    about |= {
        "rows": found.rows,
        "short_lists": found.short_lists,
        "fallback_share": round(found.fallback_share, 4),
        "checks": {check.name: check.status for check in checks},
    }
    if not context.dry_run:
        publish_checks(context, SUBJECT, checks)
    refused = [check.detail for check in checks if check.status == FAILED]
    if refused:
        raise GateRefused(f"recommendations of {context.ds} are not published", refused)
    if context.dry_run:
        return about
    commit = context.lake.commit("recommendations", context.ds, staged)
    return about | {"published": commit.changed, "table_version": commit.version}


def resolve_champion(context: Context) -> Champion:
    """Load what the alias `champion` points at, once."""
    registry = Registry(context.settings)
    version = registry.find(CHAMPION)
    if version is None:
        log.warning(
            "no champion: every list is the marked popularity fallback; train and promote one "
            "with reckoner train-ranker and reckoner promote-ranker"
        )
        return Champion(None, (), POPULARITY, "0")
    ranker, card = registry.load(version)
    name = f"{MODEL} version {version}"
    require_same_index(context.lake, ranker.num_items, card.index_fingerprint, name)
    fresh = newcomers(context.lake, context.ds, ranker, name)
    return Champion(ranker, card.actions, card.ranker_name, version, fresh)


def _allowed_file(path: str | None) -> set[str] | None:
    """Read the surface's item ids, one per line."""
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise InputError(f"recommend.allowed_items names {path!r}, which is not a file")
    return {line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()}


def _audit(
    context: Context,
    staged: list[StagedFile],
    audience: Audience,
    allowed: pa.Array,
    top_k: int,
    champion: Champion,
) -> tuple[list[Check], ListStatistics]:
    """Read the staged files back and hold them against the contract and yesterday."""
    lake = context.lake
    found = ListStatistics(top_k)
    store = table_files(lake.table_uri("recommendations"), lake.storage_options)
    for file in staged:
        with store.open_input_file(file.path) as stream:
            found.add(pq.read_table(stream, columns=AUDITED), allowed)
    checks = row_checks(found, found.missing(audience.users))
    yesterday, model = _yesterday(context, top_k)
    checks += band_checks(
        found,
        yesterday,
        len(allowed),
        context.settings.recommend,
        has_champion=champion.ranker is not None,
        same_model=model == champion.version,
    )
    for check in checks:
        log.info("audit", check=check.name, status=check.status, detail=check.detail)
    return checks, found


def _yesterday(context: Context, top_k: int) -> tuple[ListStatistics | None, str | None]:
    """Count the newest earlier partition; also which model version made it."""
    earlier = [ds for ds in context.lake.partitions("recommendations") if ds < context.ds]
    if not earlier:
        return None, None
    baseline = ListStatistics(top_k)
    dataset = context.lake.dataset("recommendations")
    where = pc.field("ds") == earlier[-1]
    model = None
    for fragment in dataset.get_fragments(filter=where):
        rows = fragment.to_table(columns=[*AUDITED, "model_version"])
        model = rows["model_version"][0].as_py() if rows.num_rows else model
        baseline.add(rows, None)
    return baseline, model
