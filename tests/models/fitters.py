"""Fitters of small rankers, and what it takes to compare their states."""

from typing import Any

import torch

from models import registry
from models.evaluation import leave_one_out_split
from models.fitting import FitConfig, Fitter
from models.rankers.sasrec import SASRec, SASRecConfig
from tests.models.conftest import NUM_ITEMS, random_store

CONFIG = FitConfig(batch_size=8, max_epochs=4, lr=1e-2, patience=2, seed=3, random_crop=True)


def make(name: str, config: FitConfig = CONFIG, seed: int = 0, **others: Any) -> Fitter:
    split = leave_one_out_split(random_store(rows=60, seed=1, shortest=3))
    torch.manual_seed(seed)
    ranker = registry.build(name, NUM_ITEMS, dim=8, max_length=10)
    ranker.fit_statistics(split.train)
    return Fitter(ranker, split.train, config, split.validation, **others)


def assert_same_state(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"cpu_seconds"}:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_state(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class TwoStages(SASRec):
    """Learns everything first and its item vectors alone afterwards."""

    @property
    def stages(self) -> tuple[str, ...]:
        return ("all", "items")

    def start_stage(self, stage: str) -> None:
        self.encoder.requires_grad_(stage == "all")


def two_stages(recipe: FitConfig) -> Fitter:
    split = leave_one_out_split(random_store(rows=60))
    torch.manual_seed(0)
    ranker = TwoStages(SASRecConfig(dim=16, max_length=12), NUM_ITEMS)
    ranker.fit_statistics(split.train)
    return Fitter(ranker, split.train, recipe, split.validation)
