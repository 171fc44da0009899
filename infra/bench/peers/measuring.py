"""What the adapters share: the training rows, a budget of CPU seconds, one JSON line.

Adapters run as scripts in their library's own environment; nothing imports them. Only numpy and
pyarrow are used here.

Shape legend: B rows, L positions.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

LENGTH, DIM, LAYERS, HEADS, BATCH, DROPOUT = 50, 64, 2, 2, 256, 0.5
WARM_UP_STEPS = 2


def arguments() -> argparse.Namespace:
    """Read what the driver passes to every adapter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", help="Parquet file of user, item, in the order of events.")
    parser.add_argument(
        "--test", help="Parquet file of user, item: a history, last what came next."
    )
    parser.add_argument("--marks", default="", help="CPU seconds at which accuracy is taken.")
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds to measure.")
    parser.add_argument("--items", type=int, default=0, help="Catalogue size of a top-K run.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights and batches.")
    parser.add_argument("--variant", default="", help="Which form of the library to measure.")
    return parser.parse_args()


def read_rows(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read items (from 1) ordered by user and time, and where each user's rows begin and end."""
    table = pq.read_table(path)
    counts = np.bincount(table["user"].to_numpy())
    return table["item"].to_numpy(), np.concatenate([[0], np.cumsum(counts)])


def windows(path: str, padding: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs and next items, int64 [B, L] each, of every user's newest events, for ever."""
    items, offsets = read_rows(path)
    draw = np.random.default_rng(seed)
    lengths = np.diff(offsets)
    while True:
        users = draw.permutation(np.flatnonzero(lengths >= 2))
        for first in range(0, len(users), BATCH):
            rows = np.full((len(users[first : first + BATCH]), LENGTH + 1), padding, np.int64)
            for row, user in enumerate(users[first : first + BATCH]):
                newest = items[
                    max(offsets[user], offsets[user + 1] - LENGTH - 1) : offsets[user + 1]
                ]
                rows[row, LENGTH + 1 - len(newest) :] = newest
            yield rows[:, :-1], rows[:, 1:]


def train_for(seconds: float, step: Callable[[], int]) -> dict[str, Any]:
    """Repeat a step, which returns its targets, for so many CPU seconds of this process."""
    for _ in range(WARM_UP_STEPS):
        step()
    began, targets = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        targets += step()
    return {"targets_per_second": targets / spent, "cpu_seconds": spent, "targets": targets}


def learn_until(marks: str, step: Callable[[], int], judge: Callable[[], float]) -> dict[str, Any]:
    """Train, and judge whenever another of the marks is reached; judging is not counted."""
    points, spent = [], 0.0
    for mark in map(float, marks.split(",")):
        while spent < mark:
            began = time.process_time()
            step()
            spent += time.process_time() - began
        points.append([round(spent, 2), judge()])
    return {"points": points, "ndcg_at_10": points[-1][1], "cpu_seconds": spent}


def mean_ndcg(path: str, scores: Callable[[np.ndarray], np.ndarray], padding: int) -> float:
    """Mean NDCG@10 of the last item of every test user, what was seen before excluded.

    Args:
        path: Parquet file of user, item.
        scores: From histories, int64 [B, L], padded at the left, to scores by item, [B, items].
        padding: Item id where a history has none.
    """
    items, offsets = read_rows(path)
    total, users = 0.0, len(offsets) - 1
    for first in range(0, users, BATCH):
        chosen = range(first, min(first + BATCH, users))
        known = [items[offsets[user] : offsets[user + 1] - 1] for user in chosen]
        rows = np.full((len(known), LENGTH), padding, np.int64)
        for row, history in enumerate(known):
            rows[row, LENGTH - len(history[-LENGTH:]) :] = history[-LENGTH:]
        found = np.array(scores(rows), dtype=np.float32)
        for row, user in enumerate(chosen):
            wanted = items[offsets[user + 1] - 1]
            score = found[row, wanted]
            found[row, known[row]] = -np.inf
            # Ties count against the target, which itself is one of them unless it was seen.
            rank = int((found[row] >= score).sum()) + int(wanted in known[row])
            total += 1 / np.log2(rank + 1) if rank <= 10 else 0.0
    return total / users


def score_for(seconds: float, users: int, search: Callable[[], Any]) -> dict[str, Any]:
    """Repeat a top-K search over so many users for so many CPU seconds of this process."""
    search()
    began, done = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        search()
        done += users
    return {"users_per_second": done / spent, "cpu_seconds": spent, "users": done}


def random_vectors(items: int, users: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Draw item and query vectors of a top-K run, float32."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((items, DIM), dtype=np.float32)
    return vectors, draw.standard_normal((users, DIM), dtype=np.float32)


def answer(result: dict[str, Any]) -> None:
    """Print the one line that the driver reads."""
    print(json.dumps(result), flush=True)
