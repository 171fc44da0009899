"""Two workers train every ranker through all of its stages: their weights stay the same."""

from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from models import registry
from models.evaluation import leave_one_out_split
from models.fitting import FitConfig, Fitter
from models.workers import Workers
from tests.models.conftest import NUM_ITEMS, random_store
from tests.models.processes import together

RECIPE = FitConfig(batch_size=8, max_epochs=3, lr=1e-2)
TRAINABLE = [name for name in registry.names() if registry.ranker_class(name).is_trainable]


def train_all(_: Workers) -> dict[str, dict[str, Tensor]]:
    return {name: train(name) for name in TRAINABLE}


def train(name: str) -> dict[str, Tensor]:
    split = leave_one_out_split(random_store(rows=40))
    fields = registry.config_class(name).model_fields
    small = {"dim": 16, "max_length": 12, "noise_warmup_epochs": 1}
    torch.manual_seed(0)
    ranker = registry.build(name, NUM_ITEMS, **{k: v for k, v in small.items() if k in fields})
    ranker.fit_statistics(split.train)

    def reduce_sum(values: Tensor) -> Tensor:
        distributed.all_reduce(values)
        return values

    rank = distributed.get_rank()
    fitter = Fitter(
        ranker,
        split.train,
        RECIPE,
        split.validation,
        rank,
        2,
        wrap=DistributedDataParallel,
        reduce_sum=reduce_sum,
    )
    fitter.fit()
    return dict(ranker.state_dict())


def test_two_workers_stay_in_step(tmp_path: Path) -> None:
    first, second = together(train_all, tmp_path)
    for name in TRAINABLE:
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
