"""One quota for all executors: a small server in the driver that they ask for leave.

Lines of JSON over TCP; each carries the run's secret. Waiting happens at the asker: the server
only hands out slots, so one exchange costs well under a millisecond.
"""

import asyncio
import hmac
import json
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from pipelines.knowledge.quota import Grant, Limits, Quota, Stop

log = structlog.get_logger()

PROGRESS_S = 10.0


@dataclass(frozen=True)
class QuotaAddress:
    """Where executors find the quota."""

    host: str
    port: int
    secret: str


class QuotaServer:
    """Serves a `Quota`; `progress` logs how far the run is."""

    def __init__(self, limits: Limits, host: str = "127.0.0.1") -> None:
        self.quota = Quota(limits)
        self._lock = threading.Lock()
        self._secret = secrets.token_hex(16)
        bind = host if host == "127.0.0.1" else "0.0.0.0"
        self._server = _Server((bind, 0), _Lines)
        self._server.answer = self._answer
        self.address = QuotaAddress(host, self._server.server_address[1], self._secret)

    @contextmanager
    def serving(self, subjects: int, what: str) -> Iterator[QuotaAddress]:
        """Serve while the block runs and log progress towards so many subjects."""
        done = threading.Event()
        threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=self._report, args=(done, subjects, what), daemon=True),
        ]
        with self._lock:
            self.quota.subjects_done = self.quota.subjects_failed = 0
        for thread in threads:
            thread.start()
        try:
            yield self.address
        finally:
            done.set()
            self._server.shutdown()
            for thread in threads:
                thread.join()
            self._log(subjects, what)

    def close(self) -> None:
        """Give the port back."""
        self._server.server_close()

    def _report(self, done: threading.Event, subjects: int, what: str) -> None:
        while not done.wait(PROGRESS_S):
            self._log(subjects, what)

    def _log(self, subjects: int, what: str) -> None:
        with self._lock:
            quota = self.quota
            finished = quota.subjects_done + quota.subjects_failed
            line = {
                what: f"{finished}/{subjects}",
                "failed": quota.subjects_failed,
                "requests": quota.answered,
                "troubles": quota.failed,
                "in_flight": quota.in_flight,
                "per_second": round(quota.requests_per_second, 1),
                "tokens": quota.tokens_in + quota.tokens_out,
                "cost_usd": round(quota.cost_usd, 4),
            }
            if finished and quota.first_at is not None:
                per_subject = (time.monotonic() - quota.first_at) / finished
                line["minutes_left"] = round(per_subject * (subjects - finished) / 60, 1)
        log.info("asking", **line)

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        if not hmac.compare_digest(str(call.pop("secret", "")), self._secret):
            return {"error": "wrong secret"}
        with self._lock:
            now, do = time.monotonic(), call.pop("do")
            if do == "acquire":
                return asdict(self.quota.acquire(now, **call))
            if do == "settle":
                spent = call.pop("spent")
                self.quota.settle(now, spent=tuple(spent) if spent else None, **call)
            elif do == "finish":
                self.quota.subjects_done += call["done"]
                self.quota.subjects_failed += call["failed"]
            elif do == "refuse":
                self.quota.refuse(call["kind"], call["why"])
            stop = self.quota.stop
            return {"answered": self.quota.answered, "stop": asdict(stop) if stop else None}


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    answer: Any


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for line in self.rfile:
                reply = self.server.answer(json.loads(line))
                self.wfile.write(json.dumps(reply).encode() + b"\n")
        except (ConnectionError, ValueError):
            return  # the asker is gone, or is none of ours


class QuotaClient:
    """A task's line to the quota; every call raises ConnectionError when the driver is gone."""

    def __init__(self, address: QuotaAddress) -> None:
        self._address = address
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def acquire(self, tokens: int, usd: float) -> Grant:
        """Ask for leave to send a request."""
        reply = await self._call(do="acquire", tokens=tokens, usd=usd)
        return Grant(reply["wait_s"], reply["again"], _stop(reply))

    async def settle(self, tokens: int, usd: float, spent: tuple[int, int, float] | None) -> None:
        """Report a request's end."""
        await self._call(do="settle", tokens=tokens, usd=usd, spent=spent)

    async def finish(self, done: int, failed: int) -> None:
        """Report finished subjects."""
        await self._call(do="finish", done=done, failed=failed)

    async def state(self) -> tuple[int, Stop | None]:
        """How many requests anyone's were answered so far, and the stop where there is one."""
        reply = await self._call(do="state")
        return reply["answered"], _stop(reply)

    async def refuse(self, kind: str, why: str) -> None:
        """Stop the whole run."""
        await self._call(do="refuse", kind=kind, why=why)

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()

    async def _call(self, **call: Any) -> dict[str, Any]:
        async with self._lock:
            if self._reader is None or self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(
                    self._address.host, self._address.port
                )
            line = json.dumps(call | {"secret": self._address.secret})
            self._writer.write(line.encode() + b"\n")
            await self._writer.drain()
            reply = await self._reader.readline()
        if not reply:
            raise ConnectionError("the quota server hung up")
        answer: dict[str, Any] = json.loads(reply)
        assert "error" not in answer, answer
        return answer


def _stop(reply: dict[str, Any]) -> Stop | None:
    return Stop(**reply["stop"]) if reply["stop"] else None
