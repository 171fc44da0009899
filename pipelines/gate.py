"""Decide whether a challenger may become champion: a pure function of judgements."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.metrics import paired_bootstrap
from pipelines.judgement import DECIDING, Judgement
from pipelines.settings.groups import GateSettings


@dataclass(frozen=True)
class Finding:
    """One check of the gate.

    Attributes:
        value: what was measured.
        threshold: what it must reach; None where the check only reports.
        passed: whether it did.
    """

    check: str
    value: float
    threshold: float | None
    passed: bool
    detail: str


def decide(
    challenger: Judgement,
    champion: Judgement | None,
    baselines: Mapping[str, Judgement],
    settings: GateSettings,
) -> list[Finding]:
    """Compare on the same users: paired bootstrap of NDCG@10, coverage, and no slice left behind.

    The challenger passes when no finding fails.
    """
    users = len(challenger.per_user[DECIDING])
    findings = [
        Finding(
            "test users",
            users,
            settings.min_users,
            users >= settings.min_users,
            f"{users} test users, at least {settings.min_users} needed",
        )
    ]
    if not users:
        return findings
    findings += [
        _gain(name, challenger, baseline, settings) for name, baseline in baselines.items()
    ]
    shown = challenger.lists["coverage@10"]
    findings.append(
        Finding(
            "coverage@10",
            shown,
            settings.min_coverage,
            shown >= settings.min_coverage,
            f"top-10 lists show {shown:.2%} of the known items, floor {settings.min_coverage:.2%}",
        )
    )
    if champion is not None:
        findings.append(_loss("all", challenger, champion, settings.max_loss_to_champion, settings))
        findings += [
            _loss(name, challenger, champion, settings.max_slice_loss, settings)
            for name, mask in challenger.slices.items()
            if name not in ("all", "cold") and int(mask.sum()) >= settings.min_slice_users
        ]
    return findings


def reasons(findings: list[Finding]) -> list[str]:
    """Say why the gate refuses; empty where it does not."""
    return [finding.detail for finding in findings if not finding.passed]


def _gain(name: str, challenger: Judgement, baseline: Judgement, settings: GateSettings) -> Finding:
    gain = paired_bootstrap(
        challenger.per_user[DECIDING],
        baseline.per_user[DECIDING],
        resamples=settings.bootstrap_samples,
    )
    floor = settings.min_gain_over_baselines
    return Finding(
        f"gain over {name}",
        gain.low,
        floor,
        gain.low > floor,
        f"{DECIDING} gain over {name} is {gain.mean:+.5f} [{gain.low:+.5f}, {gain.high:+.5f}], "
        f"its lower bound must exceed {floor:g}",
    )


def _loss(
    slice_name: str,
    challenger: Judgement,
    champion: Judgement,
    share: float,
    settings: GateSettings,
) -> Finding:
    """Non-inferiority: the whole interval of the loss must lie above the allowed one."""
    mask = challenger.slices[slice_name]
    ours, theirs = challenger.per_user[DECIDING][mask], champion.per_user[DECIDING][mask]
    change = paired_bootstrap(ours, theirs, resamples=settings.bootstrap_samples)
    floor = -share * float(np.mean(theirs))
    # For everybody the interval decides; a slice is smaller, so its mean does.
    value = change.low if slice_name == "all" else change.mean
    return Finding(
        f"change against champion, {slice_name}",
        value,
        floor,
        value >= floor,
        f"{DECIDING} change against the champion on {slice_name} is {change.mean:+.5f} "
        f"[{change.low:+.5f}, {change.high:+.5f}], the floor is {floor:+.5f}",
    )
