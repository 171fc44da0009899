"""A ranker that takes no thought is its backbone: scores, losses and gradients, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch

from models.batch import collate
from models.sequences import SequenceStore
from models.sequential import SequentialRanker
from tests.models.conftest import assert_learns_alike, small_ranker
from tests.models.test_mancar import OFF

# What each has beside its thoughts, switched off.
REASONERS: dict[str, dict[str, Any]] = {
    "rearec-erl": {},
    "rearec-prl": {},
    "dtrec": {},
    "plr": {},
    "lares": {},
    "igr-sr": {},
    "mancar": OFF,
}
PLACINGS: list[dict[str, Any]] = [
    {},
    {"position_encoding": "rotary"},
    {"time_bias": True},
    {"norm": "post"},
    {"scoring": "cosine", "repeats": "plain"},
]


def sequential(name: str, store: SequenceStore, **settings: Any) -> SequentialRanker:
    ranker = small_ranker(name, store, seed=5, **settings)
    assert isinstance(ranker, SequentialRanker)
    return ranker


@pytest.mark.parametrize("backbone_name", ["sasrec", "hstu", "bert4rec"])
@pytest.mark.parametrize("name", REASONERS)
def test_zero_steps_are_the_backbone_bit_for_bit(
    name: str, backbone_name: str, store: SequenceStore
) -> None:
    batch = collate(store, np.arange(30), 12, with_targets=True)
    for placing in PLACINGS:
        off: dict[str, Any] = {"backbone": backbone_name, "reasoning_steps": 0}
        # The ranker of that name fills in masks; a backbone is read at the last item.
        backbone = (
            sequential("rearec-erl", store, **off, **placing)
            if backbone_name == "bert4rec"
            else sequential(backbone_name, store, **placing)
        )
        ranker = sequential(name, store, **off, **REASONERS[name], **placing)
        ranker.load_state_dict(backbone.state_dict(), strict=False)
        with torch.no_grad():
            assert torch.equal(ranker.encode(batch), backbone.encode(batch))
        assert_learns_alike(ranker, backbone, batch)
