"""Reasons read as sentences and name what carried the score."""

import numpy as np
import pytest

from pipelines.reasons import carriers, sentence


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([("a kettle", "purchase")], "Because you bought 'a kettle'."),
        ([("a", "view"), ("b", "view")], "Because you looked at 'a' and 'b'."),
        ([("a", "cart"), ("b", "buy")], "Because you put 'a' in your cart and bought 'b'."),
        ([("a\n  {b}", "dance")], "Because you chose 'a {b}'."),
        ([("x" * 100, "rate")], f"Because you rated '{'x' * 77}...'."),
    ],
)
def test_sentences(history: list[tuple[str, str]], expected: str) -> None:
    assert sentence(history) == expected


def test_the_strongest_positions_are_named_and_never_the_item_itself() -> None:
    history = np.array([0, 5, 6, 7, 8])
    weights = np.array([[9.0, 0.1, 2.0, 3.0, 0.2], [9.0, 5.0, 1.0, 0.5, 0.1]], np.float32)
    assert carriers(weights, history, np.array([7, 9])) == [[2], [1]]


def test_a_weak_second_is_left_out_and_a_strong_one_named() -> None:
    history = np.array([5, 6, 7])
    weights = np.array([[1.0, 0.6, 0.4], [1.0, 0.4, 0.3]], np.float32)
    assert carriers(weights, history, np.array([9, 9])) == [[0, 1], [0]]


def test_the_latest_event_stands_in_where_nothing_pushed_the_score_up() -> None:
    history = np.array([0, 5, 6])
    assert carriers(np.array([[0.0, -1.0, -2.0]], np.float32), history, np.array([9])) == [[2]]
