"""What every registered ranker must keep, whatever its method."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.base import Ranker
from models.batch import SequenceBatch, collate
from models.encoding import encode_rows
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import top_k
from tests.models.conftest import NUM_ITEMS, TEXT, random_store, small_ranker

NAMES = registry.names()
TRAINABLE = [name for name in NAMES if registry.ranker_class(name).is_trainable]
FUSED = [name + TEXT for name in TRAINABLE]
LENGTH = 12


def all_scores(ranker: Ranker, batch: SequenceBatch) -> Tensor:
    with torch.no_grad():
        return ranker.scores(ranker.encode(batch), 0, NUM_ITEMS + 1)


def known_scores(ranker: Ranker, batch: SequenceBatch) -> Tensor:
    return all_scores(ranker, batch)[:, ranker.known_N1]


def test_the_rankers_are_found() -> None:
    heuristics = {"popularity", "last-transition", "tgh"}
    backbones = {"sasrec", "hstu", "bert4rec"}
    assert heuristics | backbones | {"rearec-erl", "rearec-prl"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str) -> None:
    ranker_class = registry.ranker_class(name)
    assert ranker_class.name == name
    assert ranker_class.method
    assert "\n" not in ranker_class.method
    assert ranker_class.source
    # All others learn from any log.
    assert bool(ranker_class.needs) == (name == "onepiece")
    assert ranker_class.__doc__


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_shapes_and_finite_scores(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    batch = collate(store, np.arange(9), LENGTH)
    queries = ranker.encode(batch)
    assert queries.shape[0] == 9
    scores = ranker.scores(queries, 5, 17)
    assert scores.shape == (9, 12)
    assert scores.dtype == torch.float32
    assert torch.isfinite(known_scores(ranker, batch)).all()


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_scores_are_the_callers_to_write_to(name: str, store: SequenceStore) -> None:
    """Masks are written into them row by row, also where every item of a chunk is known."""
    ranker = small_ranker(name, store)
    queries = ranker.encode(collate(store, np.arange(3), LENGTH))
    assert ranker.known_N1[5:17].all()
    expected = ranker.scores(queries, 5, 17).clone()
    ranker.scores(queries, 5, 17)[0] = -torch.inf
    scores = ranker.scores(queries, 5, 17)
    assert torch.equal(scores, expected)
    scores[0] = -torch.inf
    assert torch.equal(scores[1:], expected[1:])


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_chunks_of_scores_agree_with_the_whole(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    queries = ranker.encode(collate(store, np.arange(9), LENGTH))
    whole = ranker.scores(queries, 1, NUM_ITEMS + 1)
    parts = [ranker.scores(queries, s, min(s + 7, NUM_ITEMS + 1)) for s in range(1, 41, 7)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_items_never_trained_on_are_never_recommended(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    unknown = ~ranker.known_N1
    assert unknown[[0, NUM_ITEMS - 2, NUM_ITEMS - 1, NUM_ITEMS]].all()
    scores = all_scores(ranker, collate(store, np.arange(9), LENGTH))
    assert (scores[:, unknown] == -torch.inf).all()


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_rows_do_not_leak_into_each_other(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    together = known_scores(ranker, collate(store, np.arange(9), LENGTH))
    for row in range(9):
        alone = known_scores(ranker, collate(store, np.array([row]), LENGTH))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_padding_on_the_left_changes_nothing(name: str) -> None:
    store = random_store(longest=6)
    ranker = small_ranker(name, store)
    tight = known_scores(ranker, collate(store, np.arange(9), 6))
    loose = known_scores(ranker, collate(store, np.arange(9), LENGTH))
    torch.testing.assert_close(tight, loose, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_unknown_items_in_a_history_are_skipped(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    clean = SequenceStore.from_lists([[3, 5, 7], [4]], [[0, 2, 3], [1]])
    # Never seen in training, and beyond the catalogue altogether.
    dirty = SequenceStore.from_lists([[3, NUM_ITEMS, 5, 7, 900], [901, 4, NUM_ITEMS - 1]])
    a = known_scores(ranker, collate(clean, np.arange(2), LENGTH))
    b = known_scores(ranker, collate(dirty, np.arange(2), LENGTH))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_an_empty_history_gets_finite_scores(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    empty = SequenceStore.from_lists([[], [NUM_ITEMS], [3]])
    assert torch.isfinite(known_scores(ranker, collate(empty, np.arange(3), LENGTH))).all()


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_only_the_past_counts(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    longer = SequenceStore.from_lists([[3, 5, 7, 9, 11], [3, 5, 7, 20, 2]])
    both = known_scores(ranker, collate(longer.drop_last(2), np.arange(2), LENGTH))
    # Rows of one product may round differently.
    torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES + FUSED)
@pytest.mark.parametrize("rows", [1, 3, 300])
def test_lists_do_not_depend_on_the_batch(name: str, rows: int) -> None:
    """Bit for bit: scores of one user alone equal those amid any crowd."""
    store = random_store(rows=300, longest=30)
    ranker = (
        small_ranker(name, store, max_length=20)
        if name in TRAINABLE + FUSED
        else small_ranker(name, store)
    )
    seen = SeenItems.from_store(store)
    scores, items = top_k(ranker, encode_rows(ranker, store), 10, exclude=seen)
    chosen = np.random.default_rng(rows).permutation(300)[:rows]
    part = store.take(chosen)
    few = top_k(ranker, encode_rows(ranker, part), 10, exclude=SeenItems.from_store(part))
    assert torch.equal(few[0], scores[chosen])
    assert torch.equal(few[1], items[chosen])


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_spec_round_trip_through_json(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    spec = json.loads(json.dumps(registry.to_spec(ranker)))
    again = registry.from_spec(spec)
    assert again.config == ranker.config
    assert again.num_items == NUM_ITEMS
    assert type(again) is type(ranker)


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_state_round_trip_keeps_every_score(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    again = registry.from_spec(registry.to_spec(ranker)).eval()
    again.load_state_dict({key: value.clone() for key, value in ranker.state_dict().items()})
    batch = collate(store, np.arange(9), LENGTH)
    assert torch.equal(all_scores(again, batch), all_scores(ranker, batch))


@pytest.mark.parametrize("name", NAMES + FUSED)
def test_contributions_point_at_real_positions(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    batch = collate(store, np.arange(9), LENGTH)
    items = torch.arange(1, 5).expand(9, 4)
    carried = ranker.contributions(batch, items)
    assert carried.shape == (9, 4, LENGTH)
    assert torch.isfinite(carried).all()
    assert (carried.masked_select(~batch.valid_BL[:, None, :]) == 0).all()


@pytest.mark.parametrize("name", TRAINABLE + FUSED)
def test_contributions_return_to_where_the_items_stood(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    clean = collate(SequenceStore.from_lists([[3, 5, 7]], [[0, 2, 3]]), np.array([0]), 5)
    dirty = collate(SequenceStore.from_lists([[3, NUM_ITEMS, 5, 7, 900]]), np.array([0]), 5)
    items = torch.tensor([[2, 9]])
    there = ranker.contributions(clean, items)[0, :, 2:]
    here = ranker.contributions(dirty, items)[0]
    torch.testing.assert_close(here[:, [0, 2, 3]], there, rtol=1e-4, atol=1e-5)
    assert (here[:, [1, 4]] == 0).all()


def test_misses_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="nearest: sasrec"):
        registry.build("sasreq", 10)
    with pytest.raises(ValueError, match="nearest: dropout"):
        registry.build("sasrec", 10, dropuot=0.1)
    with pytest.raises(ValueError, match=r"dropout=2\.0"):
        registry.build("sasrec", 10, dropout=2.0)
    with pytest.raises(ValueError, match="lacks config"):
        registry.from_spec({"name": "sasrec", "num_items": 3})


@pytest.mark.parametrize("name", NAMES)
def test_training_items_beyond_the_catalogue_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="item id 12 is beyond the catalogue of 10 items"):
        registry.build(name, 10).fit_statistics(SequenceStore.from_lists([[1, 12]]))


def test_more_items_than_a_query_can_carry_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 16777216 items at most"):
        registry.build("sasrec", 2**24 + 1, dim=1, num_heads=1)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_read_nothing_behind_the_cut(name: str) -> None:
    """Graphs, counts and samples of rows cut by time are those of a log that ends there."""
    before = random_store(rows=200, longest=20).before(500)
    found = []
    for store in (before, before.compact()):
        torch.manual_seed(0)
        settings = {"dim": 8, "max_length": 6} if registry.ranker_class(name).is_trainable else {}
        fields = registry.config_class(name).model_fields
        if "auxiliary" in fields and name != "onepiece":
            settings |= {"auxiliary": "icsrec,sra-cl"}
        ranker = registry.build(name, NUM_ITEMS, **settings)
        ranker.fit_statistics(store)
        found.append(ranker.state_dict())
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key
