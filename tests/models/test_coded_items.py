"""What the codes of an item are cut from, and what stands for their values."""

import pytest
import torch
from torch import Tensor

from models import registry
from models.coded_items import CodedRanker
from models.semantic_ids import SemanticIds, parallel_ids, residual_ids
from models.sequences import SequenceStore
from tests.models.conftest import TEXT, small_ranker

STAGE = {"reg4rec": "codes", "stream-rec": "pretrain"}
SIZES = {
    "reg4rec": {"books": 3, "codes_per_book": 5},
    "stream-rec": {"code_levels": 3, "codes_per_level": 5},
}


def codes_of(ranker: CodedRanker) -> Tensor:
    part = ranker.walker if ranker.name == "reg4rec" else ranker.head
    codes = part.codes_N1G
    assert isinstance(codes, Tensor)
    return codes


@pytest.mark.parametrize("name", STAGE)
def test_codes_are_cut_from_texts(name: str, store: SequenceStore) -> None:
    """The same codes whatever the items' own vectors are, which stand for them all the same."""
    found = []
    for seed in (0, 1):
        settings = SIZES[name] | {"codes_from": "text"}
        ranker = small_ranker(name + TEXT, store, seed, upto="vectors", **settings)
        assert isinstance(ranker, CodedRanker)
        ranker.start_stage(STAGE[name])
        found.append(codes_of(ranker))
        directions = ranker.texts.directions(0, ranker.num_items + 1)
        cut = parallel_ids if name == "reg4rec" else residual_ids
        assert torch.equal(found[-1], cut(directions, ranker.known_N1, 3, 5).codes_N1G)
        values = (ranker.walker if name == "reg4rec" else ranker.head).values_GKD
        items = ranker.item_vectors(0, ranker.num_items + 1)
        mine = ranker.known_N1 & (found[-1][:, 0] == 2)
        torch.testing.assert_close(values[0, 2], items[mine].mean(dim=0))
    assert torch.equal(*found)
    own = small_ranker(name + TEXT, store, upto="vectors", **SIZES[name])
    own.start_stage(STAGE[name])
    assert isinstance(own, CodedRanker)
    assert not torch.equal(codes_of(own), found[0])


def test_texts_must_be_there_to_be_cut() -> None:
    with pytest.raises(ValueError, match="codes_from=text needs text_vectors=on"):
        registry.configure("stream-rec", codes_from="text")


@pytest.mark.parametrize("residual", [True, False])
def test_other_vectors_stand_for_values(residual: bool) -> None:
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [2, 1], [2, 2], [0, 0]])
    known = torch.tensor([0, 1, 1, 1, 1, 1, 0]).bool()
    ids = SemanticIds(codes, (torch.zeros(4, 9), torch.zeros(3, 9)), known)
    books = ids.standing_for(vectors, residual=residual).codebooks
    first = [vectors[[3]].mean(0), vectors[[1, 2]].mean(0), vectors[[4, 5]].mean(0), torch.zeros(4)]
    torch.testing.assert_close(books[0], torch.stack(first))
    left = {item: vectors[item] - residual * first[codes[item, 0]] for item in range(1, 6)}
    second = [left[1], (left[2] + left[3] + left[4]) / 3, left[5]]
    torch.testing.assert_close(books[1], torch.stack(second))
