"""RecTools' SASRec with softmax loss: whole fits of one epoch, its own preparation included."""

import time
import warnings

import numpy as np
import pandas as pd
import torch
from measuring import BATCH, DIM, DROPOUT, HEADS, LAYERS, LENGTH, answer, arguments, read_rows
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
options = arguments()
items, offsets = read_rows(options.train)
lengths = np.diff(offsets)
events = pd.DataFrame(
    {
        Columns.User: np.repeat(np.arange(len(lengths)), lengths),
        Columns.Item: items,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(np.arange(len(items)), unit="s"),
    }
)
dataset = Dataset.construct(events)
targets = int(np.minimum(lengths - 1, LENGTH).sum())
began, done = time.process_time(), 0
while (spent := time.process_time() - began) < options.seconds:
    model = SASRecModel(
        n_factors=DIM, n_blocks=LAYERS, n_heads=HEADS, session_max_len=LENGTH, dropout_rate=DROPOUT,
        loss="softmax", batch_size=BATCH, epochs=1, lr=1e-3, dataloader_num_workers=0,
    )  # fmt: skip
    model.fit(dataset)
    done += targets
answer({"targets_per_second": done / spent, "cpu_seconds": spent, "targets": done})
