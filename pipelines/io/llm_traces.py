"""Show a sample of conversations in MLflow: what was asked of an item, and what came back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import structlog
from mlflow import MlflowClient

from pipelines.io.tracking import addresses, reaching
from pipelines.knowledge.course import Course, Outcome
from pipelines.knowledge.requests import Reply, Request
from pipelines.settings import Settings

log = structlog.get_logger()

EXPERIMENT = "item-knowledge"
Conversation = list[tuple[Request, Reply]]


def replay(course: Course, known: Mapping[str, Reply]) -> tuple[Outcome, Conversation]:
    """Lead a chain through the answers that it was given; nothing is asked."""
    said: Conversation = []
    while course.request is not None and course.request.hash in known:
        request = course.request
        said.append((request, known[request.hash]))
        course.tell(known[request.hash])
    return course.outcome, said


def trace(
    settings: Settings, ds: str, conversations: Iterable[tuple[Outcome, Conversation]]
) -> int:
    """Log conversations as traces, one span a request; returns how many.

    Raises:
        ServiceUnavailable: MLflow does not answer.
    """
    count = 0
    with _tracing(settings) as experiment:
        for outcome, said in conversations:
            tags = {"item_id": outcome.subject, "ds": ds, "status": outcome.status}
            root = mlflow.start_span_no_context(
                "item", inputs={"item_id": outcome.subject}, tags=tags, experiment_id=experiment
            )
            for request, reply in said:
                span = mlflow.start_span_no_context(
                    request.step,
                    span_type="LLM",
                    parent_span=root,
                    inputs={"messages": request.body["messages"]},
                    attributes=_attributes(request, reply),
                )
                span.end(outputs={"answer": reply.text})
            root.end(outputs={"result": outcome.result, "reason": outcome.reason})
            count += 1
        mlflow.flush_trace_async_logging()
    return count


def _attributes(request: Request, reply: Reply) -> dict[str, Any]:
    return {
        "model": request.model,
        "prompt_version": request.prompt_version,
        "request_hash": request.hash,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "cost_usd": reply.cost_usd,
    }


@contextmanager
def _tracing(settings: Settings) -> Iterator[str]:
    """Point MLflow's tracing, which knows one address a process, at ours for a while."""
    uri, artifacts = addresses(settings)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with reaching(uri):
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            yield (
                str(found.experiment_id)
                if found is not None
                else str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
            )
    finally:
        mlflow.set_tracking_uri(before)
