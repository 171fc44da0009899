"""Windows over flat arrays, batches, and the order in which training sees them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import BatchPlan, collate, steps_per_epoch, training_batches
from models.sequences import SequenceStore
from tests.models.conftest import random_store


def test_windows_share_memory_and_cut_by_time() -> None:
    store = SequenceStore.from_lists(
        [[1, 2, 3], [], [4, 5]], times=[[10, 20, 20], [], [5, 30]], users=["b", "a", "c"]
    )
    cut = store.before(20)
    assert [cut.row(i).tolist() for i in range(3)] == [[1], [], [4]]
    assert [store.since(20).row(i).tolist() for i in range(3)] == [[2, 3], [], [5]]
    assert cut.items is store.items
    assert cut.before(6).row(2).tolist() == [4]
    assert cut.before(6).row(0).tolist() == []
    assert store.drop_last(2).lengths.tolist() == [1, 0, 0]


def test_stores_are_joined_row_by_row() -> None:
    store = SequenceStore.from_lists([[1, 2, 3], [6], [4, 5]], times=[[1, 2, 3], [4], [5, 6]])
    joined = SequenceStore.joined([store.take(np.array([2, 0])), store.drop_last(1)])
    rows = [joined.row(i).tolist() for i in range(len(joined))]
    assert rows == [[4, 5], [1, 2, 3], [1, 2], [], [4]]
    assert joined.times.tolist() == [5, 6, 1, 2, 3, 1, 2, 5]


def test_take_sort_and_compact() -> None:
    store = SequenceStore.from_lists([[1, 2, 3], [6], [4, 5]], users=["b", "a", "c"])
    ordered = store.sorted_by_user()
    assert ordered.users is not None
    assert ordered.users.tolist() == ["a", "b", "c"]
    assert [ordered.row(i).tolist() for i in range(3)] == [[6], [1, 2, 3], [4, 5]]
    with pytest.raises(ValueError, match="compact"):
        _ = ordered.offsets
    packed = ordered.compact()
    assert packed.offsets.tolist() == [0, 1, 4, 6]
    assert packed.items.tolist() == [6, 1, 2, 3, 4, 5]
    masked = store.take(np.array([False, True, True]))
    assert [masked.row(i).tolist() for i in range(2)] == [[6], [4, 5]]


def test_flat_events_follow_rows_across_gaps() -> None:
    store = SequenceStore.from_lists([[1, 2, 3], [], [4, 5]]).drop_last(1)
    rows, places = store.flat_events()
    assert rows.tolist() == [0, 0, 2]
    assert store.items[places].tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceStore.from_lists([[0]]), "start at 1, found 0"),
        (lambda: SequenceStore.from_lists([[1, 2]], times=[[2, 1]]), "older than the one before"),
        (lambda: SequenceStore.from_lists([[1, 2]], times=[[1]]), "2 items, 1 times"),
        (lambda: SequenceStore.from_lists([[1]], users=["a", "b"]), "2 users for 1 rows"),
        (lambda: SequenceStore.from_arrays(np.array([1]), np.array([0, 2])), "within the 1 events"),
        (
            lambda: SequenceStore.from_arrays(np.ones(2), np.array([0, 2, 1, 2])),
            "row 1 ends before",
        ),
        (lambda: SequenceStore.from_lists([[1]]).sorted_by_user(), "no users"),
    ],
)
def test_broken_input_is_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_collate_pads_left_and_keeps_the_newest() -> None:
    store = SequenceStore.from_lists([[1, 2, 3, 4], [5]], [[1, 2, 3, 4], [9]], [[1, 1, 2, 2], [3]])
    batch = collate(store, np.array([1, 0]), 3)
    assert batch.item_ids_BL.tolist() == [[0, 0, 5], [2, 3, 4]]
    assert batch.valid_BL.tolist() == [[False, False, True], [True, True, True]]
    assert batch.times_BL.tolist() == [[0, 0, 9], [2, 3, 4]]
    assert batch.actions_BL.tolist() == [[0, 0, 3], [1, 2, 2]]
    assert batch.targets_BL is None
    assert (batch.num_rows, batch.length, batch.num_targets) == (2, 3, 0)


def test_collate_gives_every_position_its_next_item() -> None:
    store = SequenceStore.from_lists([[1, 2, 3, 4], [5, 6]])
    batch = collate(store, np.array([0, 1]), 5, with_targets=True)
    assert batch.targets_BL is not None
    assert batch.item_ids_BL.tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 0, 5]]
    assert batch.targets_BL.tolist() == [[0, 0, 2, 3, 4], [0, 0, 0, 0, 6]]
    assert batch.num_targets == 4


def test_collate_copes_with_no_events_at_all() -> None:
    batch = collate(SequenceStore.from_lists([[], []]), np.arange(2), 4)
    assert not batch.valid_BL.any()
    assert batch.item_ids_BL.sum() == 0


def rows_of(store: SequenceStore, plan: BatchPlan, **where: int) -> list[list[int]]:
    """Rows of each batch of an epoch; row r of the store starts with item r + 1."""
    return [
        sorted(row[row > 0][0].item() - 1 for row in batch.item_ids_BL)
        for batch in training_batches(store, plan, where.pop("epoch", 0), **where)
    ]


def marked_store(rows: int, seed: int = 0) -> SequenceStore:
    rng = np.random.default_rng(seed)
    return SequenceStore.from_lists([[r + 1] * int(rng.integers(1, 9)) for r in range(rows)])


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 60),
    batch=st.integers(1, 9),
    world=st.integers(1, 3),
    bucket=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_every_row_once_and_every_rank_as_many(
    rows: int, batch: int, world: int, bucket: int, epoch: int
) -> None:
    store = marked_store(rows)
    trainable = np.flatnonzero(store.lengths >= 2).tolist()
    plan = BatchPlan(batch_size=batch, max_length=5, bucket_batches=bucket)
    per_rank = [rows_of(store, plan, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    assert {len(batches) for batches in per_rank} == {steps_per_epoch(store, plan, world)}
    dealt = [row for batches in per_rank for one in batches for row in one]
    # A last step with fewer rows than ranks is filled up with rows seen before.
    places = len(per_rank[0]) * world
    if len(trainable) >= places:
        assert sorted(dealt) == trainable
    else:
        assert len(dealt) == places
    assert set(dealt) == set(trainable)
    assert all(len(one) <= batch for batches in per_rank for one in batches)


@pytest.mark.parametrize("random_crop", [False, True])
def test_an_epoch_resumes_in_the_middle(random_crop: bool) -> None:
    store = random_store(rows=50, longest=30)
    plan = BatchPlan(batch_size=4, max_length=6, random_crop=random_crop, seed=3)
    whole = list(training_batches(store, plan, 2, rank=1, world=2))
    rest = list(training_batches(store, plan, 2, rank=1, world=2, start_batch=3))
    assert len(whole) == 7
    assert len(rest) == 4
    for mine, theirs in zip(rest, whole[3:], strict=True):
        assert torch.equal(mine.item_ids_BL, theirs.item_ids_BL)
        assert mine.targets_BL is not None
        assert theirs.targets_BL is not None
        assert torch.equal(mine.targets_BL, theirs.targets_BL)


def test_order_changes_with_epoch_and_seed_alone() -> None:
    store = marked_store(40)
    plan = BatchPlan(batch_size=4, max_length=6)
    assert rows_of(store, plan, epoch=1) == rows_of(store, plan, epoch=1)
    assert rows_of(store, plan, epoch=1) != rows_of(store, plan, epoch=2)
    other = plan.model_copy(update={"seed": 1})
    assert rows_of(store, other, epoch=1) != rows_of(store, plan, epoch=1)


def test_buckets_save_padding() -> None:
    store = random_store(rows=400, longest=60)

    def padding(bucket: int) -> int:
        plan = BatchPlan(batch_size=16, max_length=50, bucket_batches=bucket)
        return sum(int((~b.valid_BL).sum()) for b in training_batches(store, plan, 0))

    assert padding(32) < padding(1) / 5


def test_random_crops_stay_inside_and_reach_the_whole_row() -> None:
    store = SequenceStore.from_lists([list(range(1, 21))])
    plan = BatchPlan(batch_size=1, max_length=4, random_crop=True)
    first = set()
    for epoch in range(200):
        (batch,) = training_batches(store, plan, epoch)
        assert batch.valid_BL.all()
        assert batch.targets_BL is not None
        assert torch.equal(batch.targets_BL, batch.item_ids_BL + 1)
        first.add(int(batch.item_ids_BL[0, 0]))
    assert first == set(range(1, 17))


def test_a_shard_repeats_or_stops_at_the_agreed_number() -> None:
    store = marked_store(9, seed=1)
    plan = BatchPlan(batch_size=2, max_length=4)
    own = rows_of(store, plan)
    longer = [
        sorted(row[row > 0][0].item() - 1 for row in batch.item_ids_BL)
        for batch in training_batches(store, plan, 0, num_batches=len(own) + 2)
    ]
    assert longer == own + own[:2]
    with pytest.raises(ValueError, match="two events or more"):
        list(training_batches(SequenceStore.from_lists([[1]]), plan, 0, num_batches=2))
