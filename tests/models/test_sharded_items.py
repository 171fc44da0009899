"""An item table over two processes: what it learns and lists is what one process does."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.base import Ranker
from models.batch import collate
from models.encoding import encode_rows
from models.evaluation import Holdout, leave_one_out_split, target_ranks
from models.fitting import FitConfig, Fitter, Forward, StepState
from models.item_table import PartedTableError, tables_over
from models.local_state import load_whole, local_parts
from models.neural import NeuralRanker
from models.parallel import fully_sharded, replicated, whole_weights
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import top_k
from models.workers import ALONE, Workers
from tests.models.conftest import random_store, random_text
from tests.models.processes import WORLD, together

NUM_ITEMS = 301
# Float addition in another order; Adam turns a last bit into more where gradients are near zero.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}
STEADY = {"dim": 8, "max_length": 10, "dropout": 0.0}
DRAWN = {"loss": "sampled", "negatives": 64}
# Every target of a term counts, so that it does not matter who draws which.
THOUGHTS = DRAWN | {"reasoning_dropout": 0.0, "reasoning_form": "published"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    "ce": ("sasrec", {"loss": "ce"}, {}, False),
    "ce, cosine, propensity": (
        "sasrec",
        {"loss": "ce", "scoring": "cosine", "temperature": 0.2, "propensity_power": 0.5},
        {},
        False,
    ),
    "ce, fsdp": (
        "rearec-prl",
        {"loss": "ce", "contrast_weight": 0.0, "step_share": 1.0, "reasoning_dropout": 0.0},
        {},
        True,
    ),
    "sampled, rows": ("sasrec", DRAWN, {"table_optimiser": "rows"}, False),
    "sampled by popularity, rows, fsdp": (
        "sasrec",
        DRAWN | {"negative_sampling": "popularity"},
        {"table_optimiser": "rows"},
        True,
    ),
    "divergence": (
        "rearec-erl",
        THOUGHTS | {"kl_weight": 0.1, "step_share": 1.0},
        {},
        False,
    ),
    "streams, fsdp": (
        "plr",
        THOUGHTS | {"diversity_weight": 1.0, "step_share": 1.0, "contrast_weight": 0.0},
        {},
        True,
    ),
    "teacher": (
        "mancar",
        THOUGHTS | {"halt_divergence": None, "prefixes_per_row": 10},
        {"table_optimiser": "rows"},
        False,
    ),
}
# Every worker holds the whole table: what stands beside it must be averaged, too.
TEXT = {"loss": "ce", "text_vectors": {"components": 8, "id_dropout": 0.0}}
WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    "ce": CASES["ce"],
    "ce, fsdp": CASES["ce, fsdp"],
    "text": ("sasrec", TEXT, {}, False),
    "text, fsdp": ("sasrec", TEXT, {}, True),
}
RESUMED = ("ce, fsdp", "sampled, rows")


@dataclass
class Outcome:
    """What a training left behind, and what it held."""

    curve: list[tuple[float, float]]
    scores: Tensor
    items: Tensor
    ranks: Any
    table: Tensor
    rest: dict[str, Tensor]
    table_bytes: int


def data() -> tuple[SequenceStore, Holdout]:
    """64 rows that learn: as many as one process takes in whole batches of two workers."""
    split = leave_one_out_split(random_store(64, NUM_ITEMS, seed=1, shortest=4))
    return split.train, split.validation


def wrapped(ranker: Ranker, workers: Workers, fsdp: bool) -> Forward:
    if workers.mesh is None:
        return ranker
    return fully_sharded(ranker, workers.mesh) if fsdp else replicated(ranker)


def fitter_of(workers: Workers, case: str, in_parts: bool = True) -> Fitter:
    name, settings, recipe, fsdp = (CASES | WHOLE)[case]
    train, validation = data()
    torch.manual_seed(0)
    whole = registry.build(name, NUM_ITEMS, **{**STEADY, **settings})
    whole.fit_statistics(train)
    if whole.takes_text:
        whole.learn_text(random_text(list(range(1, NUM_ITEMS)), size=NUM_ITEMS))
    with tables_over(workers if in_parts else ALONE):
        ranker = registry.from_spec(registry.to_spec(whole))
    load_whole(ranker, dict(whole.state_dict()))
    config = FitConfig(
        batch_size=16 // workers.world, max_epochs=2, lr=1e-2, clip_norm=0.5, **recipe
    )
    return Fitter(
        ranker,
        train,
        config,
        validation,
        rank=workers.rank,
        world=workers.world,
        wrap=partial(wrapped, workers=workers, fsdp=fsdp),
        reduce_sum=workers.sum,
    )


def answers(ranker: Ranker) -> tuple[Tensor, Tensor, Any]:
    """Lists and ranks of the validation users."""
    _, users = data()
    seen = SeenItems.from_store(users.history)
    queries = encode_rows(ranker, users.history)
    lists = top_k(ranker, queries, 10, exclude=seen, chunk=64)
    return *lists, target_ranks(ranker, queries, users.targets, seen, chunk=64)


def train(workers: Workers, case: str) -> Outcome:
    fitter = fitter_of(workers, case)
    curve = fitter.fit()
    scores, items, ranks = answers(fitter.ranker)
    table = fitter.ranker.item_table
    assert table is not None
    return Outcome(
        [(sum(point.losses.values()), point.validation or 0.0) for point in curve],
        scores,
        items,
        ranks,
        table.local.detach().clone(),
        whole_weights(fitter.ranker),
        fitter.table_bytes,
    )


@cache
def alone(case: str) -> Outcome:
    return train(ALONE, case)


def same_after_a_stop(workers: Workers, case: str) -> bool:
    """Train on from a state in the middle of an epoch; compare with having gone on."""
    saved: list[dict[str, Any]] = []

    def keep(at: StepState) -> None:
        if at.step == 6:
            saved.append(first.state_dict())

    first = fitter_of(workers, case)
    first.fit(keep)
    torch.rand(17)  # whatever the new process has drawn before must not matter
    second = fitter_of(workers, case)
    second.load_state_dict(saved[0])
    second.fit()
    ends = [local_parts(one.ranker.state_dict()) for one in (first, second)]
    assert second.step == first.step > 6
    return all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def with_whole_tables(workers: Workers, case: str) -> dict[str, Tensor]:
    """Train with the whole item table on every worker; returns what this worker ends with."""
    fitter = fitter_of(workers, case, in_parts=False)
    fitter.fit()
    return whole_weights(fitter.ranker)


def refusal(workers: Workers, name: str, **settings: Any) -> str:
    """What a ranker that reads the whole table is told; empty where it learns without."""
    with tables_over(workers):
        ranker = registry.build(name, NUM_ITEMS, **STEADY, **settings)
    train, _ = data()
    try:
        ranker.fit_statistics(train)
        ranker.refresh()
        terms = ranker(collate(train, np.arange(8), 10, with_targets=True))
        torch.stack(list(terms.values())).sum().backward()
    except PartedTableError as error:
        return str(error)
    return ""


def trained_rankers() -> list[str]:
    return [
        name for name in registry.names() if issubclass(registry.ranker_class(name), NeuralRanker)
    ]


def train_all(workers: Workers) -> dict[str, Any]:
    found: dict[str, Any] = {case: train(workers, case) for case in CASES}
    found["resumed"] = {case: same_after_a_stop(workers, case) for case in RESUMED}
    found["whole"] = {case: with_whole_tables(workers, case) for case in WHOLE}
    found["refused"] = {name: refusal(workers, name, **DRAWN) for name in trained_rankers()}
    return found | {"refused, ce": refusal(workers, "rearec-erl", loss="ce")}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = together(train_all, tmp_path_factory.mktemp("two"))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case: str, of_two: list[dict[str, Any]]) -> None:
    expected = alone(case)
    for outcome in (worker[case] for worker in of_two):
        np.testing.assert_allclose(outcome.curve, expected.curve, rtol=1e-4)
        torch.testing.assert_close(outcome.scores, expected.scores, **CLOSE)
        assert (outcome.items == expected.items).float().mean() > 0.99
    table = torch.cat([worker[case].table for worker in of_two])[: NUM_ITEMS + 1]
    torch.testing.assert_close(table, expected.table, **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_lists_and_ranks_are_exactly_those_of_the_whole_table(
    case: str, of_two: list[dict[str, Any]]
) -> None:
    """The weights that two processes learnt, put together in one."""
    name, settings, _, _ = CASES[case]
    ranker = registry.build(name, NUM_ITEMS, **{**STEADY, **settings}).eval()
    table = torch.cat([worker[case].table for worker in of_two])[: NUM_ITEMS + 1]
    ranker.load_state_dict(of_two[0][case].rest | {"items.weight": table})
    scores, items, ranks = answers(ranker)
    for outcome in (worker[case] for worker in of_two):
        assert torch.equal(outcome.scores, scores)
        assert torch.equal(outcome.items, items)
        np.testing.assert_array_equal(outcome.ranks, ranks)


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_its_share(case: str, of_two: list[dict[str, Any]]) -> None:
    for outcome in (worker[case] for worker in of_two):
        assert outcome.table_bytes == alone(case).table_bytes / WORLD


@pytest.mark.parametrize("case", RESUMED)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    case: str, of_two: list[dict[str, Any]]
) -> None:
    assert all(worker["resumed"][case] for worker in of_two)


@pytest.mark.parametrize("case", WHOLE)
def test_whole_tables_stay_the_same_on_every_worker(
    case: str, of_two: list[dict[str, Any]]
) -> None:
    first, second = (worker["whole"][case] for worker in of_two)
    assert first["items.weight"].shape == (NUM_ITEMS + 1, STEADY["dim"])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_term_that_reads_the_whole_table_is_refused(of_two: list[dict[str, Any]]) -> None:
    refused = of_two[0]["refused, ce"]
    assert "holds the vectors of items 0 to 150, not 1 to 301" in refused
    assert "let the loss sample, or switch the term or ray.shard_items off" in refused


def test_all_but_clusters_learn_on_a_table_in_parts(of_two: list[dict[str, Any]]) -> None:
    refused = {name for name, reason in of_two[0]["refused"].items() if reason}
    assert refused == {"dtrec"}
