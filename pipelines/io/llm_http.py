"""Ask an OpenAI-compatible chat endpoint one question, through whatever troubles it has."""

import asyncio
import json
import random
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any

import httpx

from pipelines.io.llm_quota import QuotaClient
from pipelines.knowledge.answers import MAX_ANSWER_CHARS
from pipelines.knowledge.quota import Stop
from pipelines.knowledge.requests import Reply, Request, price, tokens_of
from pipelines.settings.groups import LlmSettings

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
MISTAKES = {
    401: "check RECKONER_LLM__API_KEY",
    403: "check what RECKONER_LLM__API_KEY may use",
    404: "check RECKONER_LLM__BASE_URL (it ends in /v1) and RECKONER_LLM__MODEL",
}
FIRST_BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
MOST_RETRY_AFTER_S = 120.0
MAX_BODY_BYTES = 8 << 20
LOOK_UP_S = 2.0
KNOCK_S = 10.0


class Stopped(Exception):
    """The run stops: a cap is reached, the breaker is open, or a setting is wrong."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        super().__init__(stop.why)


class Unanswered(Exception):
    """The service did not answer this request, however often it was tried.

    Attributes:
        answered: how many requests of the run had been answered when it was given up; None where
            the service refused this very request.
    """

    def __init__(self, reason: str, attempts: int, answered: int | None) -> None:
        self.reason, self.attempts, self.answered = reason, attempts, answered
        super().__init__(reason)


class Trouble(Exception):
    """One failed try.

    Attributes:
        retry_after_s: when to try again, where the service named a time.
        is_final: another try would fail the same way.
        mistake: the setting to correct, where every other request would fail too.
    """

    def __init__(
        self,
        what: str,
        retry_after_s: float | None = None,
        is_final: bool = False,
        mistake: str | None = None,
    ) -> None:
        self.what, self.retry_after_s = what, retry_after_s
        self.is_final, self.mistake = is_final, mistake
        self.answered = 0
        super().__init__(what)


class HttpModel:
    """A chat endpoint under a quota, with a bound on requests in flight.

    A request that waits for its next try holds no place among those in flight.
    """

    def __init__(self, llm: LlmSettings, quota: QuotaClient, concurrency: int) -> None:
        assert llm.base_url is not None
        key = llm.api_key.get_secret_value() if llm.api_key else None
        self._llm = llm
        self._quota = quota
        self._places = asyncio.Semaphore(concurrency)
        self._url = f"{llm.base_url.rstrip('/')}/chat/completions"
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(llm.timeout_seconds),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    async def __aenter__(self) -> "HttpModel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, request: Request) -> Reply:
        """Ask until there is an answer.

        Raises:
            Stopped: the quota gives no more leave.
            Unanswered: every try failed, or the service refuses this very request.
        """
        for attempt in range(1, self._llm.max_attempts + 1):
            try:
                async with self._places:
                    return await self._try(request)
            except Trouble as trouble:
                if trouble.is_final or attempt == self._llm.max_attempts:
                    why = f"service: {trouble.what}"
                    # A refusal of this very request says nothing of the service's state.
                    is_own = trouble.is_final and not trouble.mistake
                    answered = None if is_own else trouble.answered
                    raise Unanswered(why, attempt, answered) from trouble
                await self._wait(_pause(attempt, trouble.retry_after_s))
        raise AssertionError("unreachable")

    async def _try(self, request: Request) -> Reply:
        tokens = request.most_tokens_in + request.max_tokens
        usd = price(request.most_tokens_in, request.max_tokens, self._llm)
        await self._leave(tokens, usd)
        spent: tuple[int, int, float] | None = None
        try:
            reply = _read(await self._post(request), request, self._llm)
            spent = (reply.tokens_in, reply.tokens_out, reply.cost_usd)
            return reply
        except Trouble as trouble:
            if trouble.mistake:
                await self._quota.refuse("input", f"{trouble.what}: {trouble.mistake}")
            trouble.answered = (await self._quota.state())[0]
            raise
        finally:
            await self._quota.settle(tokens, usd, spent)

    async def _wait(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_UP_S))
            _, stop = await self._quota.state()
            if stop is not None:
                raise Stopped(stop)

    async def _leave(self, tokens: int, usd: float) -> None:
        while True:
            grant = await self._quota.acquire(tokens, usd)
            if grant.stop is not None:
                raise Stopped(grant.stop)
            await asyncio.sleep(grant.wait_s)
            if not grant.again:
                return

    async def _post(self, request: Request) -> bytes:
        try:
            async with self._client.stream("POST", self._url, json=request.body) as response:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        raise Trouble(f"an answer of more than {MAX_BODY_BYTES} bytes")
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Trouble(f"{type(error).__name__} {error}".strip()) from error
        except httpx.InvalidURL as error:
            raise Trouble(str(error), is_final=True, mistake=MISTAKES[404]) from error
        status = response.status_code
        if status == 200:
            return bytes(body)
        said = " ".join(body[:300].decode("utf-8", "replace").split())
        what = f"HTTP {status} {said}"
        if status in MISTAKES:
            told = f"{self._url} answers {what}"
            raise Trouble(told, is_final=True, mistake=MISTAKES[status])
        raise Trouble(what, _retry_after(response.headers), is_final=status not in RETRIED)


def endpoint_trouble(llm: LlmSettings) -> str | None:
    """Knock at the endpoint without asking for an answer; None where it lets us in."""
    if llm.base_url is None:
        return "set RECKONER_LLM__BASE_URL"
    key = llm.api_key.get_secret_value() if llm.api_key else None
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{llm.base_url.rstrip('/')}/models", headers=headers, timeout=KNOCK_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__} {error}"
    # An endpoint need not list its models: 404 is an answer too.
    return MISTAKES[reply.status_code] if reply.status_code in (401, 403) else None


def _read(body: bytes, request: Request, llm: LlmSettings) -> Reply:
    """Take the answer and its cost out of a response.

    Raises:
        Trouble: it is not a chat completion.
    """
    try:
        completion: Any = json.loads(body)
        message = completion["choices"][0]["message"]
        text = message.get("content") or ""
        usage = completion.get("usage") or {}
        asked = sum(tokens_of(content) for _, content in request.messages)
        tokens_in = int(usage.get("prompt_tokens", asked))
        tokens_out = int(usage.get("completion_tokens", tokens_of(str(text))))
        if not isinstance(text, str) or min(tokens_in, tokens_out) < 0:
            raise ValueError("content or usage is not what it should be")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Trouble(f"not a chat completion ({type(error).__name__}: {error})"[:300]) from error
    cost = price(tokens_in, tokens_out, llm)
    return Reply(text[:MAX_ANSWER_CHARS], tokens_in, tokens_out, cost)


def _pause(attempt: int, retry_after_s: float | None) -> float:
    """Seconds until the next try: as told, else full jitter below a doubling bound."""
    jitter = random.uniform(0, min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt))
    if retry_after_s is None:
        return jitter
    return min(retry_after_s, MOST_RETRY_AFTER_S) + random.uniform(0, FIRST_BACKOFF_S)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Read Retry-After, in seconds or as a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return None
