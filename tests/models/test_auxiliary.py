"""Auxiliary objectives: their terms against loops, and that they change nothing else."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from models import registry
from models.auxiliary.icsrec import ICSRec, draw_partners
from models.auxiliary.sra_cl import SRACL
from models.batch import BatchPlan, SequenceBatch, collate, training_batches
from models.fitting import FitConfig, Fitter
from models.prefixes import prefixes_at
from models.sequences import SequenceStore
from models.sequential import SequentialRanker
from tests.models.conftest import NUM_ITEMS, random_store, small_ranker

ICSREC = {"name": "icsrec", "windows": 20, "clusters": 7, "share": 1.0, "warmup_epochs": 0}
SRA_CL = {
    "name": "sra-cl",
    "windows": 20,
    "sequence_neighbours": 3,
    "share": 1.0,
    "warmup_epochs": 0,
}


def ranker_with(store: SequenceStore, *auxiliary: object, **settings: object) -> SequentialRanker:
    ranker = small_ranker("sasrec", store, auxiliary=auxiliary, **settings)
    assert isinstance(ranker, SequentialRanker)
    ranker.refresh()
    return ranker


def training_batch(store: SequenceStore, rows: int = 12) -> SequenceBatch:
    return collate(store, np.arange(rows), 12, with_targets=True)


def test_objectives_are_named_or_spelled_out() -> None:
    for spelled in ("icsrec,sra-cl", ["icsrec", "sra-cl"], [{"name": "icsrec"}, "sra-cl"]):
        config = registry.configure("sasrec", auxiliary=spelled)
        again = registry.configure("sasrec", **json.loads(config.model_dump_json()))
        assert again == config
        assert [one.name for one in again.auxiliary] == ["icsrec", "sra-cl"]
    (chosen,) = registry.configure(
        "sasrec", auxiliary='[{"name": "icsrec", "clusters": 9}]'
    ).auxiliary
    assert chosen.clusters == 9
    for wrong in ("icserc", "[icsrec]", "icsrec,icsrec", [ICSREC, "icsrec"]):
        with pytest.raises(ValueError, match="auxiliary"):
            registry.configure("sasrec", auxiliary=wrong)


def test_without_objectives_the_ranker_is_as_before(store: SequenceStore) -> None:
    ranker = ranker_with(store).train()
    assert ranker(training_batch(store)).keys() == {"ce"}
    assert not [name for name in ranker.state_dict() if "auxiliary" in name]


def test_partners_share_the_target_and_take_turns() -> None:
    targets = torch.tensor([4, 2, 4, 9, 4, 2, 4])
    seen: set[tuple[int, ...]] = set()
    for seed in range(10):
        torch.manual_seed(seed)
        partners = draw_partners(targets)
        assert torch.equal(targets[partners], targets)
        assert sorted(partners.tolist()) == list(range(7))
        lone = (partners == torch.arange(7)).nonzero()[:, 0].tolist()
        assert lone == [3]
        seen.add(tuple(partners.tolist()))
    assert len(seen) > 1
    assert draw_partners(targets[:0]).shape == (0,)


def info_nce(anchor: torch.Tensor, positive: int, keys: torch.Tensor, allowed: list[int]) -> float:
    logits = keys[allowed] @ anchor
    return float(-logits.log_softmax(0)[allowed.index(positive)])


def test_icsrec_coarse_equals_the_loop(store: SequenceStore) -> None:
    ranker = ranker_with(store, ICSREC)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, ICSRec)
    torch.manual_seed(0)
    states = torch.randn(9, 4)
    targets = torch.tensor([1, 1, 2, 3, 3, 3, 5, 2, 7])
    torch.manual_seed(1)
    partners = draw_partners(targets).tolist()
    torch.manual_seed(1)
    found = objective.coarse(states, targets, torch.arange(9))
    anchors = [a for a in range(9) if partners[a] != a]
    keys = states[[partners[a] for a in anchors]]
    total = 0.0
    for place, anchor in enumerate(anchors):
        # Another anchor of the same target is neither positive nor negative.
        allowed = [p for p, a in enumerate(anchors) if p == place or targets[a] != targets[anchor]]
        total += info_nce(states[anchor], place, keys, allowed)
        total += info_nce(keys[place], place, states[anchors], allowed)
    assert float(found) == pytest.approx(total / (2 * len(anchors)), rel=1e-5)


def test_icsrec_fine_equals_the_loop(store: SequenceStore) -> None:
    ranker = ranker_with(store, ICSREC)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, ICSRec)
    states = torch.randn(15, 16, generator=torch.Generator().manual_seed(2)) * 3
    intents = torch.cdist(states, objective.intents_KD).argmin(dim=1).tolist()
    assert len(set(intents)) > 2
    keys = objective.intents_KD[intents]
    total = 0.0
    for anchor in range(15):
        allowed = [a for a in range(15) if a == anchor or intents[a] != intents[anchor]]
        total += info_nce(states[anchor], anchor, keys, allowed)
    assert float(objective.fine(states)) == pytest.approx(total / 15, rel=1e-5)


def test_prototypes_are_centres_of_training_states(store: SequenceStore) -> None:
    ranker = ranker_with(store, ICSREC)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, ICSRec)
    windows = objective.windows()
    rows = [row.tolist() for row in windows.item_ids_BL]
    known = [[0] * (12 - len(r)) + r for r in (store.row(i)[:-1][-12:].tolist() for i in range(64))]
    assert all(row in known for row in rows)
    states = objective.window_states(ranker)[windows.valid_BL]
    nearest = torch.cdist(states, objective.intents_KD).argmin(dim=1)
    for number in nearest.unique():
        mean = states[nearest == number].mean(dim=0)
        torch.testing.assert_close(mean, objective.intents_KD[number], rtol=1e-4, atol=1e-4)


def test_sra_neighbours_are_the_most_similar_items(store: SequenceStore) -> None:
    ranker = ranker_with(store, SRA_CL)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, SRACL)
    vectors = functional.normalize(ranker.items.weight.detach(), dim=1)
    known = ranker.known_N1.nonzero()[:, 0].tolist()
    for item in known:
        others = sorted(
            (i for i in known if i != item), key=lambda i: -float(vectors[i] @ vectors[item])
        )
        assert set(objective.neighbours_N1M[item].tolist()) == set(others[:10])
    unknown = (~ranker.known_N1).nonzero()[:, 0]
    assert (objective.neighbours_N1M[unknown] == unknown[:, None]).all()


def test_sra_inter_equals_the_loop(store: SequenceStore) -> None:
    ranker = ranker_with(store, SRA_CL)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, SRACL)
    batch = training_batch(store, rows=8)
    rows = torch.arange(8)
    prefixes = prefixes_at(batch, rows, torch.full((8,), 11))
    anchors = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    pool = objective.windows()

    def meaning(ids: torch.Tensor) -> torch.Tensor:
        vectors = functional.normalize(ranker.items.weight[ids[ids > 0]].detach(), dim=1)
        return functional.normalize(vectors.mean(dim=0), dim=0)

    mixed = []
    for row in range(8):
        mine = prefixes.item_ids_BL[row]
        own = [w for w in range(20) if torch.equal(pool.item_ids_BL[w], mine)]
        others = [w for w in range(20) if w not in own]
        alike = {w: float(meaning(mine) @ meaning(pool.item_ids_BL[w])) for w in others}
        near = sorted(others, key=lambda w: -alike[w])[:3]
        states = objective.window_states(ranker)[near, -1]
        left = objective.project(anchors[row]).expand(3, -1)
        scores = objective.attend(torch.cat([left, objective.project(states)], dim=1))
        weights = functional.leaky_relu(scores[:, 0], 0.2).softmax(0)
        mixed.append((weights[:, None] * states).sum(0))
    expected = -(anchors @ torch.stack(mixed).T).log_softmax(dim=1).diagonal().mean()
    torch.testing.assert_close(objective.inter(ranker, prefixes, anchors), expected)


def test_no_sequence_is_its_own_neighbour_wherever_its_window_lies() -> None:
    """Rows of length 30 to 40, windows of 12: a crop rarely begins where the newest window does."""
    long = random_store(rows=40, shortest=30, longest=40)
    ranker = ranker_with(long, SRA_CL | {"windows": 40})
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, SRACL)
    plan = BatchPlan(batch_size=40, max_length=12, random_crop=True)
    (batch,) = training_batches(long, plan, epoch=0)
    assert batch.origins_B4 is not None
    last = torch.full((40,), 11)
    near, real = objective.nearest_windows(ranker, prefixes_at(batch, torch.arange(40), last))
    assert real.all()
    row_of = {tuple(origin): row for row, origin in enumerate(objective.origins_W4.tolist())}
    assert len(row_of) == 40
    own = torch.tensor([row_of[tuple(origin)] for origin in batch.origins_B4.tolist()])
    assert not (near == own[:, None]).any()
    # Without what tells the rows, some would be.
    objective.origins_W4.zero_()
    near, _ = objective.nearest_windows(ranker, prefixes_at(batch, torch.arange(40), last))
    assert (near == own[:, None]).any()


def test_views_replace_a_share_of_the_items_by_neighbours(store: SequenceStore) -> None:
    ranker = ranker_with(store, SRA_CL)
    objective = ranker.auxiliaries[0]
    assert isinstance(objective, SRACL)
    batch = collate(store, np.arange(64), 12)
    torch.manual_seed(0)
    view = objective.altered(batch)
    moved = view.item_ids_BL != batch.item_ids_BL
    assert not (moved & ~batch.valid_BL).any()
    assert 0.1 < float(moved.sum() / batch.valid_BL.sum()) < 0.3
    for old, new in zip(batch.item_ids_BL[moved], view.item_ids_BL[moved], strict=True):
        assert int(new) in objective.neighbours_N1M[old].tolist()


@pytest.mark.parametrize("auxiliary", [ICSREC, SRA_CL])
def test_contrasts_start_after_the_warm_up(
    auxiliary: dict[str, object], store: SequenceStore
) -> None:
    ranker = small_ranker("sasrec", store, auxiliary=[auxiliary | {"warmup_epochs": 2}]).train()
    assert isinstance(ranker, SequentialRanker)
    active = []
    for _ in range(4):
        ranker.refresh()
        terms = ranker(training_batch(store))
        extra = torch.stack([terms[name] for name in ranker.auxiliaries[0].terms])
        active.append(bool((extra > 0).all()))
        extra.sum().backward()
        assert all(p.grad is not None for p in ranker.auxiliary.parameters())
    assert active == [False, False, True, True]


def test_interrupted_training_resumes_bit_for_bit() -> None:
    store = random_store(rows=40, shortest=3)
    config = FitConfig(batch_size=8, max_epochs=3, seed=3)

    def make() -> Fitter:
        torch.manual_seed(0)
        ranker = registry.build(
            "sasrec", NUM_ITEMS, dim=8, max_length=10, auxiliary=[ICSREC, SRA_CL]
        )
        ranker.fit_statistics(store)
        return Fitter(ranker, store, config)

    whole = make()
    whole.fit()
    states = []
    first = make()
    first.fit(lambda at: states.append(first.state_dict()) if at.step == 7 else None)
    second = make()
    second.load_state_dict(states[0])
    second.fit()
    for key, value in whole.ranker.state_dict().items():
        assert torch.equal(second.ranker.state_dict()[key], value), key
