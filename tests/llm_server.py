"""A chat endpoint of the OpenAI protocol in a process of its own, with faults on demand.

It reads the item out of the delimited message and answers each step as a fair model would, from the
item's own words. Faults come at random, by a share per kind and a seed, or for ever for an item
whose title names one as `[[fault:KIND]]`. Every request is logged, one JSON line each: what was
asked, what was billed, and whether the answer was delivered.

Usage: python -m tests.llm_server --log FILE [--faults slow=.02,500=.01] [--latency 0.05] [--port N]
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tests.llm_answers import UNUSABLE, fair_answer, found, spoiled

SLOW_S = 3.0
RETRIED = ("slow", "429", "429-after", "500", "cut", "html")
FAULTS = (*RETRIED, *UNUSABLE)
# A title may also name a whole script: every answer is late, or none ever comes.
MARK = re.compile(r"\[\[fault:([\w-]+)\]\]")


class Server:
    """Answers, spoils and logs."""

    def __init__(self, log: TextIO, shares: dict[str, float], seed: int, latency: float) -> None:
        self.log, self.shares, self.seed, self.latency = log, shares, seed, latency
        self.seen: Counter[str] = Counter()
        self.answered = self.in_flight = 0
        self.hang_after: int | None = None
        self.is_dead = False
        self.is_careless = False

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection's requests."""
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if path == "/control":
            for name, value in json.loads(body).items():
                setattr(self, name, value)
            await _send(writer, 200, b"{}")
            return True
        if path.endswith("/models"):
            await _send(writer, 200, b'{"object": "list", "data": []}')
            return True
        self.in_flight += 1
        try:
            return await self._completion(body, reader, writer)
        finally:
            self.in_flight -= 1

    async def _completion(
        self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request = json.loads(body)
        step = request["response_format"]["json_schema"]["name"]
        told = request["messages"][1]["content"]
        item = found(told, "item") or {}
        digest = hashlib.sha256(body).hexdigest()[:16]
        self.seen[digest] += 1
        fault = self._fault(item.get("title", ""), digest)
        line = {
            "t": time.time(),
            "request": digest,
            "step": step,
            "title": item.get("title"),
            "fault": fault,
            "status": 200,
            "tokens_in": 0,
            "tokens_out": 0,
            "in_flight": self.in_flight,
        }
        if self.hang_after is not None and self.answered >= self.hang_after:
            self._write(line | {"status": 0, "fault": "hang"})
            await asyncio.sleep(3600)
        await asyncio.sleep(self.latency + (SLOW_S if fault == "slow" else 0))
        if reader.at_eof():
            self._write(line | {"status": 0, "fault": "abandoned"})
            return False
        trouble = self._trouble(fault)
        if trouble is not None:
            status, headers, said = trouble
            self._write(line | {"status": status})
            if status == 0:
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{"choices": [')
                await writer.drain()
                return False
            await _send(writer, status, said, headers)
            return True
        answer = fair_answer(step, told)
        if self.is_careless and step == "verify":
            for verdict in answer["verdicts"]:
                verdict["verdict"] = "contradicted" if verdict["id"] % 2 else "plausible"
        text = spoiled(fault, step, answer) if fault in UNUSABLE else json.dumps(answer)
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(text) // 4}
        message = {"role": "assistant", "content": text}
        completion = {
            "id": digest,
            "object": "chat.completion",
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }
        await _send(writer, 200, json.dumps(completion).encode())
        self.answered += 1
        spent = {"tokens_in": usage["prompt_tokens"], "tokens_out": usage["completion_tokens"]}
        self._write(line | spent)
        return True

    def _fault(self, title: str, digest: str) -> str | None:
        if self.is_dead:
            return "500"
        marked = MARK.search(title)
        if marked:
            return marked[1]
        dice = random.Random(f"{self.seed}/{digest}/{self.seen[digest]}").random()
        for fault, share in self.shares.items():
            dice -= share
            if dice < 0:
                return fault
        return None

    def _trouble(self, fault: str | None) -> tuple[int, dict[str, str], bytes] | None:
        """Status 0 cuts the connection."""
        return {
            "429": (429, {}, b'{"error": "too many requests"}'),
            "429-after": (429, {"retry-after": "1"}, b'{"error": "too many requests"}'),
            "500": (500, {}, b"internal error"),
            "400": (400, {}, b'{"error": "context length exceeded"}'),
            "401": (401, {}, b'{"error": "no such key"}'),
            "html": (200, {}, b"<html>gateway</html>"),
            "cut": (0, {}, b""),
        }.get(fault or "")

    def _write(self, line: dict[str, Any]) -> None:
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


class LlmServer:
    """A running server, from outside."""

    def __init__(self, port: int, log: Path) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._control = f"http://127.0.0.1:{port}/control"
        self._log = log

    def control(self, **state: Any) -> None:
        """Change the state: `is_dead`, `is_careless`, `hang_after`, `shares`, `latency`."""
        data = json.dumps(state).encode()
        with urllib.request.urlopen(urllib.request.Request(self._control, data)) as reply:
            reply.read()

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def billed(self) -> list[dict[str, Any]]:
        """The requests that were answered and cost tokens."""
        return [line for line in self.requests() if line["tokens_out"] or line["tokens_in"]]


@contextmanager
def llm_server(log: Path, *words: str) -> Iterator[LlmServer]:
    """Run a server for the block's duration."""
    command = [sys.executable, "-m", "tests.llm_server", "--log", str(log), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield LlmServer(int(process.stdout.readline()), log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def serve(log: Path, shares: dict[str, float], seed: int, latency: float, port: int) -> None:
    """Serve until killed; the port is the first line printed."""
    with log.open("a", encoding="utf-8") as stream:
        server = Server(stream, shares, seed, latency)
        listener = await asyncio.start_server(
            server.connection, "127.0.0.1", port, limit=1 << 22, backlog=512
        )
        print(listener.sockets[0].getsockname()[1], flush=True)
        await listener.serve_forever()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    pairs = [pair.split("=") for pair in options.faults.split(",") if pair]
    shares = {kind: float(share) for kind, share in pairs}
    assert set(shares) <= set(FAULTS), sorted(set(shares) - set(FAULTS))
    asyncio.run(serve(options.log, shares, options.seed, options.latency, options.port))


if __name__ == "__main__":
    main()
