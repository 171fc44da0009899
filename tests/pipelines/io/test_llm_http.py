"""One question to a real endpoint, through every trouble that it can have."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pipelines.io import llm_http
from pipelines.io.llm_http import HttpModel, Stopped, Unanswered, endpoint_trouble
from pipelines.io.llm_quota import QuotaClient, QuotaServer
from pipelines.knowledge.answers import MAX_ANSWER_CHARS
from pipelines.knowledge.quota import Limits
from pipelines.knowledge.reasoning import reason_about_item
from pipelines.knowledge.requests import Reply, Request
from pipelines.settings.groups import LlmSettings
from tests.llm_server import LlmServer, llm_server
from tests.pipelines.knowledge.conversation import HAMMER, LLM


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_http, "FIRST_BACKOFF_S", 0.01)


def settings(base_url: str, **more: object) -> LlmSettings:
    given = {"price_per_million_in": 1, "price_per_million_out": 2, "max_attempts": 4} | more
    return LlmSettings(backend="http", base_url=base_url, model="model-1", **given)


def a_request(title: str = "Steel hammer, 500 g", number: int = 0) -> Request:
    item = HAMMER | {"title": title, "description": f"hammer number {number}"}
    return next(reason_about_item(item, [], LLM))


def ask_all(
    llm: LlmSettings, requests: list[Request], limits: Limits | None = None, concurrency: int = 8
) -> tuple[list[Reply | BaseException], QuotaServer]:
    """Ask at once; returns replies or exceptions in order, and the quota."""
    quota = QuotaServer(limits or Limits(1000))

    async def all_at_once() -> list[Reply | BaseException]:
        client = QuotaClient(quota.address)
        async with HttpModel(llm, client, concurrency) as model:
            tries = (model.ask(request) for request in requests)
            replies = await asyncio.gather(*tries, return_exceptions=True)
        await client.close()
        return list(replies)

    with quota.serving(len(requests), "requests"):
        replies = asyncio.run(all_at_once())
    quota.close()
    return replies, quota


def test_an_answer_carries_what_the_endpoint_billed(server: LlmServer) -> None:
    [reply], quota = ask_all(settings(server.base_url), [a_request()])
    assert isinstance(reply, Reply)
    [line] = server.billed()
    assert (reply.tokens_in, reply.tokens_out) == (line["tokens_in"], line["tokens_out"])
    assert reply.cost_usd == (line["tokens_in"] + 2 * line["tokens_out"]) / 1e6
    assert quota.quota.cost_usd == reply.cost_usd


@pytest.mark.parametrize("fault", ["429", "500", "cut", "html"])
def test_what_never_answers_is_given_up_after_all_tries(server: LlmServer, fault: str) -> None:
    [reply], quota = ask_all(settings(server.base_url), [a_request(f"hammer [[fault:{fault}]]")])
    assert isinstance(reply, Unanswered)
    assert reply.attempts == 4 == len(server.requests()) == quota.quota.failed
    assert reply.reason.startswith("service: ")
    assert quota.quota.in_flight == 0


@pytest.mark.parametrize("fault", ["429", "500", "cut", "html"])
def test_what_fails_now_and_then_is_answered_in_the_end(tmp_path: Path, fault: str) -> None:
    with llm_server(tmp_path / "log.jsonl", "--faults", f"{fault}=.4") as server:
        requests = [a_request(number=number) for number in range(20)]
        replies, _ = ask_all(settings(server.base_url, max_attempts=12), requests)
        assert all(isinstance(reply, Reply) for reply in replies)
        assert len(server.requests()) > len(server.billed()) == 20


def test_a_refused_request_is_not_tried_again(server: LlmServer) -> None:
    requests = [a_request("hammer [[fault:400]]"), a_request()]
    [refused, fine], _ = ask_all(settings(server.base_url), requests)
    assert isinstance(refused, Unanswered)
    assert "HTTP 400" in refused.reason
    assert "context length" in refused.reason
    assert refused.attempts == 1
    assert isinstance(fine, Reply)


def test_a_wrong_key_stops_the_run_and_names_the_setting(server: LlmServer) -> None:
    requests = [a_request("hammer [[fault:401]]"), *[a_request(number=n) for n in range(3)]]
    replies, quota = ask_all(settings(server.base_url), requests, concurrency=1)
    assert quota.quota.stop is not None
    assert quota.quota.stop.kind == "input"
    assert "RECKONER_LLM__API_KEY" in quota.quota.stop.why
    assert [type(reply) for reply in replies[1:]] == [Stopped] * 3
    assert len(server.requests()) == 1


def test_an_endpoint_that_is_not_there_opens_the_breaker() -> None:
    llm = settings("http://127.0.0.1:9/v1", max_attempts=50)
    limits = Limits(1000, breaker_failures=5, breaker_seconds=0)
    replies, quota = ask_all(llm, [a_request(number=number) for number in range(4)], limits)
    assert all(isinstance(reply, Stopped) for reply in replies)
    assert quota.quota.stop is not None
    assert quota.quota.stop.kind == "breaker"


def test_retry_after_is_honoured(server: LlmServer) -> None:
    llm = settings(server.base_url, max_attempts=2)
    ask_all(llm, [a_request("hammer [[fault:429-after]]")])
    first, second = server.requests()
    assert second["t"] - first["t"] >= 1.0


def test_retry_after_is_read_as_seconds_or_date() -> None:
    def read(value: str) -> float | None:
        return llm_http._retry_after(httpx.Headers({"retry-after": value}))

    assert read("7") == 7
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 55 < (read(later) or 0) <= 60
    assert read("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert read("soon") is None
    assert llm_http._retry_after(httpx.Headers()) is None


def test_a_slow_answer_is_tried_again_and_not_billed(server: LlmServer) -> None:
    llm = settings(server.base_url, timeout_seconds=0.3, max_attempts=2)
    [reply], _ = ask_all(llm, [a_request("hammer [[fault:slow]]")])
    assert isinstance(reply, Unanswered)
    assert "ReadTimeout" in reply.reason
    assert server.billed() == []


def test_a_huge_answer_is_cut_before_it_is_kept(server: LlmServer) -> None:
    [reply], _ = ask_all(settings(server.base_url), [a_request("hammer [[fault:huge]]")])
    assert isinstance(reply, Reply)
    assert len(reply.text) == MAX_ANSWER_CHARS
    assert reply.tokens_out == server.billed()[0]["tokens_out"] > 200_000


def test_a_refusal_and_an_empty_answer_are_answers(server: LlmServer) -> None:
    requests = [a_request(f"hammer [[fault:{fault}]]") for fault in ("refusal", "empty")]
    [refusal, empty], _ = ask_all(settings(server.base_url), requests)
    assert isinstance(refusal, Reply)
    assert refusal.text.startswith("I'm sorry")
    assert isinstance(empty, Reply)
    assert empty.text == ""


def test_the_rate_holds_with_two_clients_and_many_in_flight(server: LlmServer) -> None:
    quota = QuotaServer(Limits(50))
    llm = settings(server.base_url)

    async def two_clients() -> None:
        clients = [QuotaClient(quota.address) for _ in range(2)]
        models = [HttpModel(llm, client, 16) for client in clients]
        requests = [a_request(number=number) for number in range(60)]
        asked = (models[n % 2].ask(request) for n, request in enumerate(requests))
        await asyncio.gather(*asked)
        for model, client in zip(models, clients, strict=True):
            await model.__aexit__()
            await client.close()

    with quota.serving(60, "requests"):
        asyncio.run(two_clients())
    times = sorted(line["t"] for line in server.requests())
    assert len(times) == 60
    # 60 slots of 20 ms take 1.18 s, however fast the endpoint is.
    assert times[-1] - times[0] >= 59 / 50 - 0.1


def test_the_doctor_knocks_without_asking(server: LlmServer) -> None:
    assert endpoint_trouble(settings(server.base_url)) is None
    assert server.requests() == []
    assert "ConnectError" in (endpoint_trouble(settings("http://127.0.0.1:9/v1")) or "")
    nowhere = endpoint_trouble(LlmSettings(backend="http"))
    assert nowhere == "set RECKONER_LLM__BASE_URL"


def test_a_stranger_gets_no_leave() -> None:
    quota = QuotaServer(Limits(1))

    async def knock() -> None:
        await QuotaClient(replace(quota.address, secret="guess")).acquire(1, 0.0)

    with quota.serving(1, "requests"), pytest.raises(AssertionError, match="wrong secret"):
        asyncio.run(knock())
    assert quota.quota.in_flight == 0
