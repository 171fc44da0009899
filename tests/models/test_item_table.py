"""How the item table's rows are dealt, and what a process alone keeps."""

import pytest
import torch

from models.item_table import CHUNK_ITEMS, ItemTable, rows_per_worker


@pytest.mark.parametrize(("items", "world"), [(40, 1), (301, 2), (10**6, 2), (10**7, 7)])
def test_every_row_has_a_holder(items: int, world: int) -> None:
    rows = rows_per_worker(items, world)
    assert (world - 1) * rows <= items < world * rows


def test_large_shards_end_where_chunks_of_scores_end() -> None:
    assert rows_per_worker(10**7, 7) % CHUNK_ITEMS == 0
    assert rows_per_worker(10**7, 7) < 1.01 * 10**7 / 7


def test_more_workers_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="4 items are too few to lie over 4 workers"):
        rows_per_worker(4, 4)


def test_touched_rows_hold_the_gradient_of_the_whole_table() -> None:
    torch.manual_seed(0)
    table, ids = ItemTable(9, 4), torch.tensor([[3, 3, 0], [9, 1, 3]])
    scales = torch.randn(2, 3, 4)
    (table(ids) * scales).sum().backward()
    expected = table.weight.grad
    assert expected is not None
    table.weight.grad, table.by_rows = None, True
    assert torch.equal(table(ids), table.weight[ids])
    (table(ids) * scales).sum().backward()
    assert table.weight.grad is None
    ((rows, grads),) = table.touched
    assert rows.tolist() == [0, 1, 3, 9]
    torch.testing.assert_close(grads, expected[rows])
