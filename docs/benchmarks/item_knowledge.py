"""Measure the reasoning backend against a chat endpoint with and without faults.

Usage: python docs/benchmarks/item_knowledge.py DATASET_DIR [--items N] [--rate R] [--out FILE.json]

DATASET_DIR holds `items.parquet` with item_id, title, description and brand. Two lakes are filled
through `reckoner build-item-knowledge`, one from an endpoint without faults and one where a tenth
of all answers is a fault of some kind; then the night is run again on each and must ask nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest_items import CONTENT, content_hash
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.tables.behaviour import ITEMS
from tests.llm_server import FAULTS, LlmServer, llm_server

DS = "2026-03-01"
FAULT_SHARE = 0.1
LATENCY_S = 0.2
PRICES = {"PRICE_PER_MILLION_IN": "0.15", "PRICE_PER_MILLION_OUT": "0.6"}


def catalogue(folder: Path, most: int | None) -> pa.Table:
    """Read the items; descriptions are lists of paragraphs, written almost as Python literals."""
    rows = []
    for item in pq.read_table(folder / "items.parquet").slice(0, most).to_pylist():
        text = (item["description"] or "").strip("[]'\"").replace("', '", " ")
        row = {
            "item_id": item["item_id"],
            "title": item["title"],
            "description": text or None,
            "category": [],
            "brand": item["brand"] or None,
            "price": None,
            "available": True,
            "attributes": None,
        }
        row["content_hash"] = content_hash({name: row[name] for name in CONTENT})
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=ITEMS.stored)


def night(lake: str, server: LlmServer, rate: float) -> dict[str, Any]:
    """Run the step in a process of its own."""
    settings = {
        "BACKEND": "http",
        "BASE_URL": server.base_url,
        "MODEL": "measured",
        "MAX_REQUESTS_PER_SECOND": str(rate),
        "MAX_CONCURRENCY": str(max(8, round(rate))),
        "TIMEOUT_SECONDS": "20",
        **PRICES,
    }
    words = ["build-item-knowledge", "--partition", DS, "--part", "knowledge"]
    words += ["--lake", lake, "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words],
        env=os.environ | {f"RECKONER_LLM__{name}": value for name, value in settings.items()},
        stdout=subprocess.PIPE,
        check=True,
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def measure(items: pa.Table, rate: float, faults: str) -> dict[str, Any]:
    """Fill a lake, check the accounts, and run the night again."""
    with tempfile.TemporaryDirectory() as home:
        lake = f"{home}/lake"
        Lake(lake, Run.start("test", DS)).publish("items", DS, items)
        words = ("--latency", str(LATENCY_S), "--faults", faults)
        with llm_server(Path(home) / "log.jsonl", *words) as server:
            first = night(lake, server, rate)
            asked = server.requests()
            second = night(lake, server, rate)
            again = len(server.requests()) - len(asked)
        read = Lake(lake, Run.unrecorded())
        ended = Counter(
            item
            for table in ("item_knowledge", "item_knowledge_failed")
            for item in read.read(table, columns=["item_id"])["item_id"].to_pylist()
        )
        answers = read.read("llm_answers", columns=["tokens_in", "tokens_out", "cost_usd"])
        paid = {name: sum(answers[name].to_pylist()) for name in answers.column_names}
    billed = [line for line in asked if line["tokens_in"]]
    tokens = {name: sum(line[name] for line in billed) for name in ("tokens_in", "tokens_out")}
    seconds = max(line["t"] for line in asked) - min(line["t"] for line in asked)
    return {
        "faults": faults,
        "items": items.num_rows,
        "built": first["built"],
        "failed": first["failed"],
        "left": first["left"],
        "ended_once": sum(count == 1 for count in ended.values()),
        "ended_twice": sum(count > 1 for count in ended.values()),
        "requests": len(asked),
        "answered": len(billed),
        "troubles": first["troubles"],
        "billed": tokens,
        "paid": paid,
        "accounts_agree": all(paid[name] == tokens[name] for name in tokens),
        "asking_seconds": round(seconds, 1),
        "step_seconds": first["seconds"],
        "items_per_second": round((first["built"] + first["failed"]) / seconds, 3),
        "requests_per_second": round(len(asked) / seconds, 2),
        "of_the_rate": round(len(asked) / seconds / rate, 4),
        "busiest_second": max(Counter(int(line["t"]) for line in asked).values()),
        "second_night": {"requests": again, "pending": second["pending"]},
    }


def main() -> None:
    """Measure both and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--items", type=int)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    items = catalogue(options.dataset, options.items)
    share = FAULT_SHARE / len(FAULTS)
    faults = ",".join(f"{fault}={share:.5f}" for fault in FAULTS)
    runs = {"calm": measure(items, options.rate, "")}
    runs["faulty"] = measure(items, options.rate, faults)
    runs["rate"] = options.rate
    runs["faulty_over_calm"] = round(
        runs["faulty"]["items_per_second"] / runs["calm"]["items_per_second"], 4
    )
    text = json.dumps(runs, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
