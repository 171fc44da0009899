"""RecBole's SASRec with cross-entropy: one target per prefix, from its own loader."""

import tempfile
from pathlib import Path

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
    read_rows,
    train_for,
)

# Its checkpoints and datasets are its own files, older than torch's new default.
options = arguments()
torch.set_num_threads(1)
items, offsets = read_rows(options.train)
lengths = np.diff(offsets)
folder = Path(tempfile.mkdtemp())
(folder / "log").mkdir()
users = np.repeat(np.arange(len(lengths)), lengths)
rows = "\n".join(f"{u}\t{i}\t{t}" for t, (u, i) in enumerate(zip(users, items, strict=True)))
(folder / "log" / "log.inter").write_text(
    f"user_id:token\titem_id:token\ttimestamp:float\n{rows}\n"
)

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec

config = Config(
    model="SASRec",
    dataset="log",
    config_dict={
        "data_path": str(folder),
        "checkpoint_dir": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_neg_sample_args": None,
        "train_batch_size": BATCH,
        "loss_type": "CE",
        "hidden_size": DIM,
        "inner_size": 4 * DIM,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    },
)
dataset = create_dataset(config)
loader, _, _ = data_preparation(config, dataset)
model = SASRec(config, loader.dataset).train()
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
batches = (batch for _ in range(10_000) for batch in loader)


def step() -> int:
    """Take one training step."""
    batch = next(batches)
    optimiser.zero_grad()
    model.calculate_loss(batch).backward()
    optimiser.step()
    return len(batch)


answer(train_for(options.seconds, step))
