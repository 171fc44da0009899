"""The item graph against a plain Python reading of the formula."""

from collections import Counter, defaultdict
from itertools import combinations, pairwise
from math import sqrt
from random import Random

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_jobs.item_graph import SwingRules, swing, top_neighbours, transitions

RULES = SwingRules(
    alpha1=5.0,
    alpha2=1.0,
    beta=0.3,
    min_common_users=2,
    max_user_pairs=10,
    max_users_per_item=200,
    max_items_per_user=100,
)
SCHEMA = pa.schema([("user_id", pa.string()), ("item_idx", pa.list_(pa.int32()))])

Histories = dict[str, list[int]]
Edges = dict[tuple[int, int], float]


def random_histories(seed: int, num_users: int, num_items: int) -> Histories:
    random = Random(seed)
    popular = [min(int(random.paretovariate(0.7)), num_items) for _ in range(5000)]
    return {
        f"user-{number}": random.choices(popular, k=random.randint(1, 25))
        for number in range(num_users)
    }


def sequences(spark: SparkSession, histories: Histories) -> DataFrame:
    rows = [{"user_id": user, "item_idx": items} for user, items in histories.items()]
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=SCHEMA)).repartition(3)


def index(spark: SparkSession, num_items: int, seed: int = 0) -> tuple[DataFrame, dict[int, str]]:
    numbers = list(range(1, num_items + 1))
    Random(seed).shuffle(numbers)
    names = {number: f"item-{place:03d}" for place, number in enumerate(numbers)}
    table = pa.table(
        {"item_id": list(names.values()), "item_idx": pa.array(list(names), pa.int32())}
    )
    return spark.createDataFrame(table), names


def edges_of(frame: DataFrame) -> Edges:
    rows = frame.toArrow().to_pylist()
    edges = {(row["item_idx"], row["neighbour_idx"]): row["weight"] for row in rows}
    assert len(edges) == len(rows)
    return edges


def sample_order(spark: SparkSession, names: dict[int, str], users: list[str]) -> Edges:
    """Spark's own hash, one by one: the order in which an item's users are sampled."""
    pairs = [(i, names[i], place, user) for i in names for place, user in enumerate(users)]
    table = pa.table(
        {
            "item_idx": [p[0] for p in pairs],
            "item_id": [p[1] for p in pairs],
            "neighbour_idx": [p[2] for p in pairs],
            "user_id": [p[3] for p in pairs],
        }
    )
    hashed = spark.createDataFrame(table).withColumn("weight", F.xxhash64("item_id", "user_id"))
    return edges_of(hashed)


def naive_swing(spark: SparkSession, histories: Histories, names: dict[int, str],
                rules: SwingRules) -> Edges:  # fmt: skip
    """The formula as written, item pair by item pair, with the documented samples."""
    items_of = {
        user: set(list(dict.fromkeys(reversed(items)))[: rules.max_items_per_user])
        for user, items in histories.items()
    }
    users_of: dict[int, list[str]] = defaultdict(list)
    for user, items in items_of.items():
        for item in items:
            users_of[item].append(user)
    all_users = list(histories)
    places = {user: place for place, user in enumerate(all_users)}
    order = sample_order(spark, names, all_users)
    weight = {u: (len(items_of[u]) + rules.alpha1) ** -rules.beta for u in all_users}
    found: Edges = {}
    for i, users in users_of.items():
        users = sorted(users, key=lambda u, i=i: order[i, places[u]])[: rules.max_users_per_item]
        for j in set().union(*(items_of[u] for u in users)) - {i}:
            common = [u for u in users if j in items_of[u]]
            if len(common) < max(rules.min_common_users, 2):
                continue
            pairs = sorted(combinations(range(len(common)), 2), key=lambda p: (p[1], p[0]))
            total = 0.0
            for a, b in pairs[: rules.max_user_pairs]:
                u, v = common[a], common[b]
                shared = len(items_of[u] & items_of[v])
                total += weight[u] * weight[v] / (shared + rules.alpha2)
            found[i, j] = total / sqrt(len(users_of[j]))
    return found


def test_swing_by_hand(spark: SparkSession) -> None:
    histories = {"u": [1, 2, 3], "v": [1, 2], "w": [1, 1, 4]}
    frame, _ = index(spark, 4)
    found = edges_of(swing(sequences(spark, histories), frame, RULES))
    pair = (3 + 5) ** -0.3 * (2 + 5) ** -0.3 / (2 + 1)
    assert found == pytest.approx({(1, 2): pair / sqrt(2), (2, 1): pair / sqrt(3)})


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        SwingRules(2.0, 0.5, 0.7, 3, 4, 6, 5),  # every sample cuts
    ],
)
def test_swing_follows_the_formula(spark: SparkSession, rules: SwingRules) -> None:
    histories = random_histories(3, 60, 30)
    frame, names = index(spark, 30)
    found = edges_of(swing(sequences(spark, histories), frame, rules))
    expected = naive_swing(spark, histories, names, rules)
    assert found == pytest.approx(expected, rel=1e-12)
    assert len(expected) > 30


def test_transitions_count_what_follows_what(spark: SparkSession) -> None:
    histories = random_histories(5, 80, 12)
    expected: Counter[tuple[int, int]] = Counter()
    for items in histories.values():
        expected.update((a, b) for a, b in pairwise(items) if a != b)
    assert edges_of(transitions(sequences(spark, histories))) == dict(expected)


def test_ties_follow_item_ids_whatever_the_indices(spark: SparkSession) -> None:
    by_name = {}
    for seed in (1, 2):
        frame, names = index(spark, 8, seed)
        place = {name: number for number, name in names.items()}
        edges = spark.createDataFrame(
            [
                (place["item-000"], place[f"item-{n:03d}"], 2.0 if n == 5 else 1.0)
                for n in range(1, 8)
            ],
            "item_idx int, neighbour_idx int, weight double",
        )
        rows = top_neighbours(edges, frame, "swing", 4).toArrow().to_pylist()
        assert {row["kind"] for row in rows} == {"swing"}
        by_name[seed] = sorted((row["rank"], names[row["neighbour_idx"]]) for row in rows)
    assert by_name[1] == [(1, "item-005"), (2, "item-001"), (3, "item-002"), (4, "item-003")]
    assert by_name[2] == by_name[1]


def test_swing_does_not_depend_on_the_order_of_indices(spark: SparkSession) -> None:
    rules = SwingRules(2.0, 0.5, 0.7, 2, 3, 5, 6)
    found = []
    for seed in (1, 2):
        frame, names = index(spark, 30, seed)
        place = {name: number for number, name in names.items()}
        own = {
            user: [place[f"item-{item - 1:03d}"] for item in items]
            for user, items in random_histories(9, 60, 30).items()
        }
        edges = edges_of(swing(sequences(spark, own), frame, rules))
        found.append({(names[a], names[b]): weight for (a, b), weight in edges.items()})
    assert found[0] == found[1]
