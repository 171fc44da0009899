"""Reckoner itself: `--variant` is a ranker, or a ranker and a loss; without it top-K."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

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
    random_vectors,
    read_rows,
    score_for,
    train_for,
)

from models import registry
from models.batch import BatchPlan, training_batches
from models.fitting import FitConfig, Fitter
from models.sequences import SequenceStore
from models.top_k import top_k


def train() -> None:
    """Take training steps as the fitter takes them."""
    items, offsets = read_rows(options.train)
    store = SequenceStore.from_arrays(items, offsets)
    name, _, loss = options.variant.partition(":")
    torch.manual_seed(0)
    ranker = registry.build(
        name, int(items.max()), dim=DIM, num_layers=LAYERS, num_heads=HEADS, max_length=LENGTH,
        dropout=DROPOUT, loss=loss or "ce",
    )  # fmt: skip
    ranker.fit_statistics(store)
    fitter = Fitter(ranker, store, FitConfig(batch_size=BATCH, max_epochs=10_000))
    ranker.train()
    # Past the epochs in which a method still leaves some of its terms out.
    ranker.start_epoch(100)
    plan = BatchPlan(batch_size=BATCH, max_length=LENGTH)
    batches = (batch for epoch in range(10_000) for batch in training_batches(store, plan, epoch))

    def step() -> int:
        batch = next(batches)
        fitter._take_step(batch)
        return batch.num_targets

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
