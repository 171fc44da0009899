"""What ends a round of asking a language model: held against the last accepted one, or stopped."""

from collections.abc import Mapping

import structlog

from pipelines.errors import GateRefused, InputError, ServiceUnavailable
from pipelines.io.lake import Lake
from pipelines.knowledge.judging import Quality, compare, last_accepted
from pipelines.knowledge.quota import Stop
from pipelines.monitoring import publish_checks
from pipelines.step import Context

log = structlog.get_logger()


def judge_round(
    context: Context,
    subject: str,
    found: Quality | Mapping[str, float],
    earlier: Lake,
    *,
    accept: bool,
    refusal: str,
) -> None:
    """Hold a round against the last accepted one and note the outcome in `monitoring`.

    Args:
        context: names the night.
        subject: what is judged.
        found: the round's measures.
        earlier: where the earlier outcomes are read; its run decides whether they are an input.
        accept: take the round however it compares.
        refusal: what to say, and what to do, where it is worse.

    Raises:
        GateRefused: the round is worse than the last accepted one.
    """
    days = [ds for ds in earlier.partitions("monitoring") if ds <= context.ds]
    noted = {ds: earlier.read("monitoring", ds).to_pylist() for ds in days}
    accepted = None if accept else last_accepted(noted, subject)
    checks = compare(found, accepted, context.settings.knowledge)
    publish_checks(context, subject, checks)
    log.info("judged", **{check.name: round(check.value, 3) for check in checks})
    worse = [check.detail for check in checks if not check.passed]
    if worse:
        raise GateRefused(refusal, worse)


def end_as_stopped(context: Context, stop: Stop, rest: str) -> None:
    """End with the stop's exit code; a reached cap is an ordinary end.

    Args:
        context: names the endpoint.
        stop: why nothing more was asked.
        rest: what was published and what is left.

    Raises:
        InputError: the endpoint refused what it was asked, as with a wrong key.
        ServiceUnavailable: the endpoint stayed away.
    """
    if stop.kind == "budget":
        return
    if stop.kind == "input":
        raise InputError(f"{stop.why}; {rest}")
    raise ServiceUnavailable(f"{context.settings.llm.base_url}: {stop.why}; {rest}")
