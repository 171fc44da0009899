"""The promotion gate: challenger against champion and baselines, on the same users."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import NoReturn

import structlog

from models.evaluation import Split
from models.registry import build
from pipelines.catalogue_index import require_same_index
from pipelines.errors import GateRefused, NotBuiltYet
from pipelines.gate import decide, reasons
from pipelines.histories import read_histories, split_histories
from pipelines.io.tracking import CHALLENGER, CHAMPION, MODEL, Registry
from pipelines.item_index import catalogue_size
from pipelines.judgement import Judgement, foreknowledge, judge_for, publish_metrics
from pipelines.step import Context, Result
from pipelines.text_vectors import meet_newcomers

log = structlog.get_logger()

SplitOf = Callable[[tuple[str, ...]], Split]


def run(context: Context) -> Result:
    """Promote the challenger, or refuse it with reasons.

    Raises:
        NotBuiltYet: there is no challenger.
        InputError: a model was trained on another item index.
        GateRefused: a check failed, or one of them was trained on a later night; the champion
            stays.
    """
    registry = Registry(context.settings)
    challenger = registry.find(CHALLENGER)
    if challenger is None:
        raise NotBuiltYet(
            f"{MODEL} has no version with the alias {CHALLENGER}: run reckoner train-ranker "
            f"--partition {context.ds} first"
        )
    champion = registry.find(CHAMPION)
    if challenger == champion:
        return {"model": MODEL, "champion": champion, "promoted": False, "why": "already champion"}
    _require_no_foreknowledge(context, registry, challenger, champion)

    @cache
    def split_of(actions: tuple[str, ...]) -> Split:
        # Versions nearly always share their actions: the sequences are then read once.
        store = read_histories(context.lake, context.ds, actions)
        return split_histories(store, context.settings.train)

    judged = {challenger: _judge_version(context, registry, challenger, split_of)}
    if champion is not None:
        judged[champion] = _judge_version(context, registry, champion, split_of)
    baselines = _judge_baselines(context, split_of(registry.card(challenger).actions))
    findings = decide(
        judged[challenger], judged.get(champion or ""), baselines, context.settings.gate
    )
    for finding in findings:
        log.info("gate", check=finding.check, passed=finding.passed, detail=finding.detail)
    publish_metrics(context, judged | {f"baseline:{name}": one for name, one in baselines.items()})
    if refused := reasons(findings):
        _refuse(context, registry, challenger, refused)
    if not context.dry_run:
        registry.note(challenger, "gate", f"passed on {context.ds}")
        registry.promote(challenger)
    return {
        "model": MODEL,
        "champion": challenger,
        "previous_champion": champion,
        "promoted": not context.dry_run,
        "findings": [asdict(finding) for finding in findings],
    }


def _require_no_foreknowledge(
    context: Context, registry: Registry, challenger: str, champion: str | None
) -> None:
    versions = [version for version in (challenger, champion) if version is not None]
    late = [
        foreknowledge(registry.card(version).partition, f"{MODEL} version {version}", context.ds)
        for version in versions
    ]
    if any(late):
        _refuse(context, registry, challenger, [reason for reason in late if reason])


def _refuse(context: Context, registry: Registry, challenger: str, why: list[str]) -> NoReturn:
    if not context.dry_run:
        registry.note(challenger, "gate", "; ".join(why))
    raise GateRefused(f"{MODEL} version {challenger} is not promoted", why)


def _judge_version(
    context: Context, registry: Registry, version: str, split_of: SplitOf
) -> Judgement:
    ranker, card = registry.load(version)
    name = f"{MODEL} version {version}"
    require_same_index(context.lake, ranker.num_items, card.index_fingerprint, name)
    meet_newcomers(context.lake, context.ds, ranker, name)
    return judge_for(context, ranker, split_of(card.actions))


def _judge_baselines(context: Context, split: Split) -> dict[str, Judgement]:
    num_items = catalogue_size(context.lake)
    judged = {}
    for name in context.settings.gate.baselines:
        ranker = build(name, num_items)
        ranker.fit_statistics(split.train)
        judged[name] = judge_for(context, ranker.eval(), split)
    return judged
