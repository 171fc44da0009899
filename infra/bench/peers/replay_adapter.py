"""RePlay's SASRec with its full cross-entropy, fed with ready tensors: no loader to pay.

`--variant fast` takes the dropout and the learning rate that Reckoner takes under a budget.
"""

from functools import partial

import numpy as np
import torch
from measuring import (
    DIM,
    DROPOUT,
    HEADS,
    LAYERS,
    LENGTH,
    answer,
    arguments,
    learn_until,
    mean_ndcg,
    read_rows,
    train_for,
)
from measuring import windows as training_windows
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.sequential import SasRec

torch.set_num_threads(1)
options = arguments()
torch.manual_seed(options.seed)
num_items = int(max(read_rows(path)[0].max() for path in (options.train, options.test) if path)) + 1
item = TensorFeatureInfo(
    "item_id",
    is_seq=True,
    feature_type=FeatureType.CATEGORICAL,
    embedding_dim=DIM,
    padding_value=num_items,
    cardinality=num_items,
    feature_hint=FeatureHint.ITEM_ID,
    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
)
model = SasRec.from_params(
    TensorSchema([item]),
    embedding_dim=DIM,
    num_heads=HEADS,
    num_blocks=LAYERS,
    max_sequence_length=LENGTH,
    dropout=DROPOUT if options.variant != "fast" else 0.2,
    hidden_dim=4 * DIM,
).train()
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3 if options.variant != "fast" else 3e-3)
batches = training_windows(options.train, padding=num_items, seed=options.seed)


def step() -> int:
    """Take one training step."""
    inputs, targets = (torch.from_numpy(values) for values in next(batches))
    mask, wanted = inputs != num_items, targets != num_items
    output = model(
        feature_tensors={"item_id": inputs},
        padding_mask=mask,
        positive_labels=targets[:, :, None],
        negative_labels=None,
        target_padding_mask=(wanted & mask)[:, :, None],
    )
    optimiser.zero_grad()
    output["loss"].backward()
    optimiser.step()
    return int((wanted & mask).sum())


@torch.no_grad()
def scores(rows: np.ndarray) -> np.ndarray:
    """Score every item behind each history."""
    inputs = torch.from_numpy(rows)
    model.eval()
    found = model(feature_tensors={"item_id": inputs}, padding_mask=inputs != num_items)
    model.train()
    return found["logits"].numpy()


if options.test:
    judge = partial(mean_ndcg, options.test, scores, padding=num_items)
    answer(learn_until(options.marks, step, judge))
else:
    answer(train_for(options.seconds, step))
