"""The frozen backbone stays where it was; intents and decisions mean what they say."""

import numpy as np
import pytest
import torch

from models.batch import SequenceBatch, collate
from models.fitting import FitConfig, Fitter
from models.losses import in_batch_contrast
from models.prefixes import prefixes_at
from models.rankers.igr_sr import IGRSR
from models.sequences import SequenceStore
from tests.models.conftest import random_store, small_ranker

backbones = pytest.mark.parametrize("backbone", ["sasrec", "hstu", "bert4rec"])


def igr_sr(store: SequenceStore, **settings: object) -> IGRSR:
    ranker = small_ranker("igr-sr", store, **settings)
    assert isinstance(ranker, IGRSR)
    return ranker


def training(store: SequenceStore, rows: int = 8) -> SequenceBatch:
    return collate(store, np.arange(rows), 12, with_targets=True)


@backbones
def test_the_second_stage_moves_only_what_stands_around(
    backbone: str, store: SequenceStore
) -> None:
    ranker = igr_sr(store, backbone=backbone, upto="backbone")
    recipe = FitConfig(batch_size=32, max_epochs=2, lr=1e-2, weight_decay=0.1)
    fitter = Fitter(ranker, store, recipe)
    assert ranker.stages == ("backbone", "intents")
    before: list[dict[str, torch.Tensor]] = []
    while not fitter.finished:
        result = fitter.run_epoch()
        before.append({name: value.clone() for name, value in ranker.state_dict().items()})
        assert result.stage == ranker.stages[0 if len(before) <= 2 else 1]
    assert [bool(state.pop("reasons")) for state in before] == [False, True, True, True]
    backbone_names = [name for name in before[1] if not name.startswith("around.")]
    for name in backbone_names:
        assert torch.equal(before[1][name], before[3][name]), name
    moved = [name for name in before[1] if not torch.equal(before[1][name], before[3][name])]
    assert {"around.prefix_PD", "around.intents_MD", "around.gate_D"} <= set(moved)
    # The first stage in turn leaves the parts of the second alone.
    around = [name for name in before[0] if name.startswith("around.")]
    assert all(torch.equal(before[0][name], before[1][name]) for name in around)
    assert any(not torch.equal(before[0][name], before[1][name]) for name in backbone_names)


def test_a_closed_gate_scores_as_the_first_stage_does_without_a_prefix() -> None:
    """The gate adds nothing at first; what is left is the frozen encoder behind its prefix."""
    store = random_store()
    ranker = igr_sr(store)
    batch = collate(store, np.arange(8), 12)
    assert ranker.around is not None
    assert ranker.around.gate_D is not None
    with torch.no_grad():
        ranker.around.gate_D.zero_()
        base = ranker._prefixed_pass(batch, ranker.items(batch.item_ids_BL))
        for state in ranker.decide(base):
            assert torch.equal(state, base.hidden_BQD)


@backbones
def test_padding_between_the_prefix_and_the_history_changes_nothing(backbone: str) -> None:
    store = random_store(longest=6)
    ranker = igr_sr(store, backbone=backbone)
    with torch.no_grad():
        tight, loose = (ranker.encode(collate(store, np.arange(9), length)) for length in (6, 12))
    torch.testing.assert_close(tight, loose, rtol=1e-4, atol=1e-5)


@backbones
def test_every_place_decides_as_its_prefix_alone(backbone: str, store: SequenceStore) -> None:
    ranker = igr_sr(store, backbone=backbone, prefixes_per_row=12, repeats="plain")
    batch = training(store)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        chosen, _ = ranker.targets_of(base)
        found = ranker.decide(base)[-1, chosen]
        assert base.batch.targets_BL is not None
        rows, places = (base.batch.targets_BL > 0).nonzero(as_tuple=True)
        count = ranker.config.prefix_tokens
        plain = SequenceBatch(
            *(
                values[:, count:]
                for values in (
                    base.batch.item_ids_BL,
                    base.batch.valid_BL,
                    base.batch.times_BL,
                    base.batch.actions_BL,
                )
            )
        )
        expected = ranker.encode(prefixes_at(plain, rows, places - count))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_learned_tokens_leave_the_positions_of_events_alone(store: SequenceStore) -> None:
    ranker = igr_sr(store)
    assert ranker.around is not None
    batch = collate(store, np.arange(4), 12)
    items = ranker.items(batch.item_ids_BL)
    with torch.no_grad():
        before = ranker._prefixed_pass(batch, items)
        plain = ranker.encoder(batch, items)
        # The first layer's keys of events are those of the plain history; states are not.
        count = ranker.config.prefix_tokens
        torch.testing.assert_close(before.keys[0][:, :, count:], plain.keys[0])
        assert not torch.allclose(before.hidden_BQD, plain.hidden_BQD, atol=1e-4)


def test_consistency_compares_the_same_intent_of_two_views(
    store: SequenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = igr_sr(store, drop_share=0.0, contrast_temperature=0.5)
    one = SequenceStore.from_lists([[3, 5], [7, 9], [4, 2]])
    batch = training(one, rows=3)
    with torch.no_grad():
        found = ranker.consistency(batch)
        history = collate(one.drop_last(1), np.arange(3), 12)
        base = ranker._prefixed_pass(history, ranker.items(history.item_ids_BL)).at_last()
        intents = torch.nn.functional.normalize(ranker.intents(base)[:, 0], dim=-1)
        expected = torch.stack(
            [in_batch_contrast(intents[:, m] / 0.5, intents[:, m]) for m in range(4)]
        ).mean()
    torch.testing.assert_close(found, expected)


def test_views_keep_the_place_and_drop_a_share() -> None:
    store = random_store(rows=300, shortest=12, longest=13)
    ranker = igr_sr(store, drop_share=0.4)
    batch = training(store, rows=300)
    rows, places = torch.arange(300), batch.valid_BL.long().argmax(dim=1, keepdim=True) + 9
    view = ranker._thinned(batch, rows, places)
    at = torch.arange(batch.length)
    assert view.valid_BL.gather(1, places).all()
    assert not view.valid_BL[at > places].any()
    assert (view.item_ids_BL[~view.valid_BL] == 0).all()
    earlier = batch.valid_BL & (at < places)
    assert view.valid_BL[earlier].float().mean().item() == pytest.approx(0.6, abs=0.05)


def test_zero_rounds_need_no_second_stage(store: SequenceStore) -> None:
    assert igr_sr(store, reasoning_steps=0).stages == ("backbone",)
