"""Reckoner itself: `--variant` is a ranker, or a ranker and a loss; without it top-K.

With `--test` it is trained as it trains by default and its accuracy is taken at the marks.
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
    learn_until,
    mean_ndcg,
    random_vectors,
    read_rows,
    score_for,
    train_for,
)

from models import registry
from models.batch import BatchPlan, SequenceBatch, training_batches
from models.encoding import encode_rows
from models.fitting import FitConfig, Fitter
from models.sequences import SequenceStore
from models.top_k import top_k


def train() -> None:
    """Take training steps as the fitter takes them."""
    items, offsets = read_rows(options.train)
    store = SequenceStore.from_arrays(items, offsets)
    name, _, loss = options.variant.partition(":")
    torch.manual_seed(0)
    num_items = int(max(items.max(), read_rows(options.test or options.train)[0].max()))
    ranker = registry.build(
        name, num_items, dim=DIM, num_layers=LAYERS, num_heads=HEADS, max_length=LENGTH,
        dropout=DROPOUT, loss=loss or "ce",
    )  # fmt: skip
    ranker.fit_statistics(store)
    optimiser = "rows" if loss == "sampled" and options.test else "auto"
    recipe = FitConfig(batch_size=BATCH, max_epochs=10_000, table_optimiser=optimiser)
    fitter = Fitter(ranker, store, recipe)
    ranker.train()
    plan = BatchPlan(batch_size=BATCH, max_length=LENGTH)

    def endless() -> Iterator[SequenceBatch]:
        # Speed is taken past the epochs in which a method still leaves some of its terms out.
        for epoch in range(0 if options.test else 100, 10_000):
            ranker.start_epoch(epoch)
            yield from training_batches(store, plan, epoch)

    batches = endless()

    def step() -> int:
        batch = next(batches)
        fitter._take_step(batch)
        return batch.num_targets

    def scores(rows: np.ndarray) -> np.ndarray:
        known = SequenceStore.from_lists([row[row > 0] for row in rows])
        return ranker.scores(encode_rows(ranker, known), 0, num_items + 1).detach().numpy()

    if options.test:
        judge = partial(mean_ndcg, options.test, scores, padding=0)
        answer(learn_until(options.marks, step, judge))
    else:
        answer(train_for(options.seconds, step))


def score() -> None:
    """Search the catalogue exactly."""
    vectors, queries = random_vectors(options.items)
    ranker = registry.build("sasrec", options.items, dim=DIM, repeats="plain").eval()
    ranker.item_table.weight.data[1:] = torch.from_numpy(vectors)
    ranker.known_N1[1:] = True
    tile = torch.from_numpy(queries)
    answer(score_for(options.seconds, len(tile), lambda: top_k(ranker, tile, 100)))


torch.set_num_threads(1)
options = arguments()
if options.items:
    score()
else:
    train()
