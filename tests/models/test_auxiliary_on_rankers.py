"""Auxiliary objectives on every ranker: they see what it sees, and leave frozen parts alone."""

import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models.batch import SequenceBatch, collate
from models.sequences import SequenceStore
from models.sequential import SequentialRanker
from tests.models.conftest import small_ranker
from tests.models.test_auxiliary import ICSREC, SRA_CL, training_batch

SEQUENTIAL = [
    name for name in registry.names() if issubclass(registry.ranker_class(name), SequentialRanker)
]
TAKERS = [name for name in SEQUENTIAL if name != "onepiece"]


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("auxiliary", [ICSREC, SRA_CL])
def test_any_ranker_takes_them(
    name: str, auxiliary: dict[str, object], store: SequenceStore
) -> None:
    # Once its encoder is frozen an objective has nothing left to shape.
    stage = "backbone" if name == "igr-sr" else None
    ranker = small_ranker(name, store, upto=stage, auxiliary=[auxiliary]).train()
    ranker.start_epoch(5)
    ranker.refresh()
    plain = small_ranker(name, store, upto=stage)
    own = {key: value for key, value in ranker.state_dict().items() if "auxiliary" not in key}
    plain.load_state_dict(own)
    batch = training_batch(store)
    assert torch.equal(ranker.eval().encode(batch), plain.encode(batch))
    ranker.train()
    terms = ranker(batch)
    extra = [key for key in terms if key.startswith(("icsrec", "sra"))]
    assert len(extra) == 2
    torch.stack([terms[key] for key in extra]).sum().backward()
    assert isinstance(ranker, SequentialRanker)
    assert ranker.items.weight.grad is not None
    assert float(ranker.items.weight.grad.abs().sum()) > 0
    assert ranker._latest_pass is None
    assert batch.targets_BL is not None
    batch.targets_BL.zero_()
    empty = torch.stack(list(ranker(batch).values())).sum()
    empty.backward()
    assert empty.item() == 0.0


def test_a_ranker_whose_states_are_not_of_histories_refuses_them() -> None:
    with pytest.raises(ValueError, match="onepiece takes no auxiliary objective"):
        registry.configure("onepiece", auxiliary="icsrec")


@pytest.mark.parametrize("name", ["sasrec", "rearec-prl", "mancar", "bert4rec"])
def test_windows_are_encoded_as_scoring_encodes_them(name: str, store: SequenceStore) -> None:
    steps = {} if name in ("sasrec", "bert4rec") else {"reasoning_steps": 0}
    ranker = small_ranker(name, store, auxiliary=[SRA_CL], **steps)
    assert isinstance(ranker, SequentialRanker)
    objective = ranker.auxiliaries[0]
    windows = objective.windows()
    states = objective.window_states(ranker, last_only=True)[:, 0]
    scoring = ranker._encode_vectors(windows, ranker.items(windows.item_ids_BL))
    torch.testing.assert_close(states, scoring)


def test_views_hold_the_mask_token_where_events_are_masked(store: SequenceStore) -> None:
    ranker = small_ranker("bert4rec", store)
    assert isinstance(ranker, SequentialRanker)
    prefixes = collate(store, np.arange(8), 12)
    prefixes.item_ids_BL[:, -1] = 0
    mask = ranker.mask_token_D
    assert isinstance(mask, nn.Parameter)
    ranker.prefix_states(prefixes).square().sum().backward()
    assert mask.grad is not None
    assert float(mask.grad.abs().sum()) > 0


@pytest.mark.parametrize("auxiliary", [ICSREC, SRA_CL])
@pytest.mark.parametrize(("name", "settings"), [("igr-sr", {}), ("lares", {"rollouts": 2})])
def test_what_a_stage_froze_stays_without_dropout(
    name: str, settings: dict[str, object], auxiliary: dict[str, object], store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, auxiliary=[auxiliary], **settings).train()
    ranker.start_epoch(0)
    before = {part: module.training for part, module in ranker.named_modules()}
    assert len(set(before.values())) == 2
    ranker.refresh()
    assert {part: module.training for part, module in ranker.named_modules()} == before


def test_behind_a_frozen_encoder_they_say_nothing(store: SequenceStore) -> None:
    for auxiliary in (ICSREC, SRA_CL):
        ranker = small_ranker("igr-sr", store, auxiliary=[auxiliary]).train()
        ranker.start_epoch(0)
        ranker.refresh()
        terms = ranker(full_batch(store))
        assert all(float(terms[name].detach()) == 0.0 for name in ranker.auxiliaries[0].terms)
        torch.stack(list(terms.values())).sum().backward()
        assert all(p.grad is not None for p in ranker.auxiliary.parameters())


def full_batch(store: SequenceStore) -> SequenceBatch:
    """Rows as long as the window."""
    rows = np.flatnonzero(store.lengths >= 13)
    assert len(rows) > 1
    return collate(store, rows, 12, with_targets=True)
