"""Answer requests in process on GPUs: vLLM through Ray Data, a wave of chains at a time.

A wave is the next request of every chain that is not done, so that the engine always has a full
batch; chains wait for each other only between waves. vLLM comes with `ray[llm]` and is imported by
Ray's workers alone.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from time import monotonic
from typing import Any

import structlog

from pipelines.errors import InputError
from pipelines.io.answer_store import AnswerStore, lake_of
from pipelines.io.cluster import ray_cluster
from pipelines.io.llm_tasks import Job
from pipelines.knowledge.course import Course
from pipelines.knowledge.quota import Quota
from pipelines.knowledge.requests import Reply, Request, price, step_schema
from pipelines.settings.groups import LlmSettings, RaySettings

log = structlog.get_logger()

WAVE = 4096
BATCH = 64
ERROR = "__inference_error__"

AnswerAll = Callable[[Sequence[Request]], Iterable[tuple[Request, Reply | str]]]


def ask_on_ray(
    ray_settings: RaySettings, job: Job, subjects: Sequence[tuple[str, str]], quota: Quota
) -> list[dict[str, Any]]:
    """Run every subject's chain on vLLM engines; returns their outcomes.

    Raises:
        InputError: vLLM is not installed here.
    """
    if find_spec("vllm") is None:
        raise InputError(
            "llm.backend=vllm needs vLLM: install ray[llm] in the image of this step, or set "
            "RECKONER_LLM__BACKEND=http and run vLLM as a server"
        )
    with ray_cluster(ray_settings):
        processor = build_engine(job.llm)
        return in_waves(job, subjects, quota, lambda asked: _answer(processor, asked, job.llm))


def engine_config(llm: LlmSettings) -> Any:
    """Configure the engines: the model, its arguments and how many there are."""
    from ray.data.llm import vLLMEngineProcessorConfig

    defaults: dict[str, Any] = {"enable_prefix_caching": True, "enable_chunked_prefill": True}
    return vLLMEngineProcessorConfig(
        model_source=llm.model,
        engine_kwargs=defaults | dict(llm.engine),
        batch_size=BATCH,
        concurrency=llm.replicas,
        # One bad row must not cost the answers of its batch.
        should_continue_on_error=True,
    )


def engine_row(request: Request) -> dict[str, Any]:
    """Put a request in the columns that Ray Data's processor reads.

    The schema travels as a text: Arrow would merge the steps' different schemas into one struct.
    """
    return {
        "messages": [{"role": role, "content": text} for role, text in request.messages],
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": request.max_tokens,
            "structured_outputs": {"json": json.dumps(step_schema(request.step))},
        },
        "request_hash": request.hash,
    }


def build_engine(llm: LlmSettings) -> Any:
    """Build the processor; its first use loads the model."""
    from ray.data.llm import build_processor

    return build_processor(engine_config(llm), preprocess=dict, postprocess=dict)


def in_waves(
    job: Job, subjects: Sequence[tuple[str, str]], quota: Quota, answer_all: AnswerAll
) -> list[dict[str, Any]]:
    """Drive chains by answering the next request of many at once.

    Args:
        job: what the chains are made of.
        subjects: (subject, payload) pairs, the most wanted first.
        quota: the caps; the rate is the engines' own.
        answer_all: answers requests, each with its reply or with what went wrong.
    """
    store = AnswerStore(lake_of(job.lake_uri, job.storage_options, job.run), job.ds)
    outcomes = []
    for group in _groups(subjects):
        known = store.known({subject for subject, _ in group}, job.seen, job.relevant)
        courses = [Course(subject, job.chain(subject, payload)) for subject, payload in group]
        while asked := _next_requests(courses, known, job.llm, quota):
            for request, reply in answer_all(list(asked)):
                course = asked[request]
                if isinstance(reply, Reply):
                    store.keep(request, reply)
                    _settle(request, job.llm, quota, reply)
                    course.tell(reply)
                else:
                    _settle(request, job.llm, quota, None)
                    course.give_up(f"service: {reply}", 1, quota.answered)
            store.commit(store.take())
        outcomes += [course.outcome for course in courses]
        log.info("asked", subjects=f"{len(outcomes)}/{len(subjects)}", requests=quota.answered)
    return [asdict(outcome.without_blame(quota.answered, quota.stop)) for outcome in outcomes]


def _next_requests(
    courses: Sequence[Course], known: dict[str, Reply], llm: LlmSettings, quota: Quota
) -> dict[Request, Course]:
    """Answer what is known and take leave for the rest, until a cap is reached."""
    asked: dict[Request, Course] = {}
    for course in courses:
        while course.request is not None and course.request.hash in known:
            course.tell(known[course.request.hash])
        if course.request is None or quota.stop is not None:
            continue
        grant = quota.acquire(monotonic(), *_worst(course.request, llm))
        if grant.stop is None and not grant.again:
            asked[course.request] = course
    return asked


def _worst(request: Request, llm: LlmSettings) -> tuple[int, float]:
    tokens = request.most_tokens_in + request.max_tokens
    return tokens, price(request.most_tokens_in, request.max_tokens, llm)


def _settle(request: Request, llm: LlmSettings, quota: Quota, reply: Reply | None) -> None:
    spent = (reply.tokens_in, reply.tokens_out, reply.cost_usd) if reply else None
    quota.settle(monotonic(), *_worst(request, llm), spent)


def _answer(
    processor: Any, asked: Sequence[Request], llm: LlmSettings
) -> Iterator[tuple[Request, Reply | str]]:
    import ray.data

    by_hash = {request.hash: request for request in asked}
    rows = processor(ray.data.from_items([engine_row(request) for request in asked]))
    for row in rows.iter_rows():
        request = by_hash[row["request_hash"]]
        if row.get(ERROR):
            yield request, str(row[ERROR])
            continue
        spent = int(row["num_input_tokens"]), int(row["num_generated_tokens"])
        yield request, Reply(row["generated_text"], *spent, price(*spent, llm))


def _groups(subjects: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(subjects)
    while group := list(islice(rest, WAVE)):
        yield group
