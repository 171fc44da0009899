"""Reckoner itself: `--variant` is a ranker, or a ranker and a loss; without it top-K.

With `--test` it is trained for each of the marks and its accuracy taken.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch
from measuring import (
    BATCH,
    DIM,
    DROPOUT,
    HEADS,
    LAYERS,
    LENGTH,
    answer,
    arguments,
    mean_ndcg,
    random_vectors,
    read_rows,
    score_for,
    train_for,
)

from models import registry
from models.base import Ranker
from models.batch import BatchPlan, SequenceBatch, training_batches
from models.encoding import encode_rows
from models.fitting import FitConfig, Fitter
from models.kept_memory import keep_freed_memory
from models.sequences import SequenceStore
from models.top_k import top_k

# What to train with under a budget, chosen on validation (docs/decisions/0023).
BUDGET = {"batch_size": 128, "random_crop": True}
BUDGETS = {
    "sampled": {"lr": 4e-3, "cooldown": 0.6, "table_optimiser": "rows"},
    "ce": {"lr": 3e-3, "cooldown": 0.5},
}


def build(store: SequenceStore, dropout: float, **settings: object) -> Ranker:
    """Build the ranker that `--variant` names, untrained."""
    torch.manual_seed(options.seed)
    name, _, loss = options.variant.partition(":")
    num_items = int(max(read_rows(path)[0].max() for path in (options.train, options.test) if path))
    ranker = registry.build(
        name, num_items, dim=DIM, num_layers=LAYERS, num_heads=HEADS, max_length=LENGTH,
        dropout=dropout, loss=loss or "ce", **settings,
    )  # fmt: skip
    ranker.fit_statistics(store)
    return ranker


def train() -> None:
    """Take training steps as the fitter takes them."""
    store = SequenceStore.from_arrays(*read_rows(options.train))
    ranker = build(store, DROPOUT)
    fitter = Fitter(ranker, store, FitConfig(batch_size=BATCH, max_epochs=10_000))
    ranker.train()
    plan = BatchPlan(batch_size=BATCH, max_length=LENGTH)

    def endless() -> Iterator[SequenceBatch]:
        # Speed is taken past the epochs in which a method still leaves some of its terms out.
        for epoch in range(100, 10_000):
            ranker.start_epoch(epoch)
            yield from training_batches(store, plan, epoch)

    batches = endless()

    def step() -> int:
        batch = next(batches)
        fitter._take_step(batch)
        return batch.num_targets

    answer(train_for(options.seconds, step))


def learn() -> None:
    """Train afresh for each mark: the learning rate falls towards the end of a budget."""
    store = SequenceStore.from_arrays(*read_rows(options.train))
    loss = options.variant.partition(":")[2] or "ce"
    points = []
    for mark in map(float, options.marks.split(",")):
        ranker = build(store, 0.2, negatives=1024)
        budget = FitConfig(**BUDGET, **BUDGETS[loss], cpu_seconds=mark, seed=options.seed)
        fitter = Fitter(ranker, store, budget)
        fitter.fit()
        ranker.eval()
        judged = mean_ndcg(options.test, partial(scores, ranker), padding=0)
        points.append([round(fitter.cpu_seconds, 2), judged])
    answer({"points": points, "ndcg_at_10": points[-1][1], "cpu_seconds": points[-1][0]})


def scores(ranker: Ranker, rows: np.ndarray) -> np.ndarray:
    """Score every item behind each history."""
    known = SequenceStore.from_lists([row[row > 0] for row in rows])
    return ranker.scores(encode_rows(ranker, known), 0, ranker.num_items + 1).detach().numpy()


def score() -> None:
    """Search the catalogue exactly."""
    vectors, queries = random_vectors(options.items)
    ranker = registry.build("sasrec", options.items, dim=DIM, repeats="plain").eval()
    ranker.item_table.weight.data[1:] = torch.from_numpy(vectors)
    ranker.known_N1[1:] = True
    tile = torch.from_numpy(queries)
    answer(score_for(options.seconds, len(tile), lambda: top_k(ranker, tile, 100)))


torch.set_num_threads(1)
keep_freed_memory()
options = arguments()
if options.items:
    score()
elif options.test:
    learn()
else:
    train()
