"""What a run would cost, from texts and from measurements."""

from pipelines.knowledge.estimate import estimate
from pipelines.settings.groups import LlmSettings
from tests.pipelines.knowledge.conversation import HAMMER

PRICED = LlmSettings(model="m", price_per_million_in=2.0, price_per_million_out=10.0)


def test_longer_texts_and_more_categories_cost_more() -> None:
    one = estimate([HAMMER], 0, PRICED, {})
    assert one.requests == 4
    assert one.cost_usd == round((2 * one.tokens_in + 10 * one.tokens_out) / 1e6, 6)
    longer = estimate([HAMMER | {"description": "word " * 700}], 0, PRICED, {})
    assert longer.tokens_in - one.tokens_in > 4 * 700
    assert longer.tokens_out == one.tokens_out
    categories = estimate([HAMMER], 3, PRICED, {})
    assert categories.requests == 7
    assert categories.tokens_out > one.tokens_out
    assert estimate([], 0, PRICED, {}, 0.5).cost_usd == 0
    graded = estimate([HAMMER] * 10, 0, PRICED, {}, 0.2)
    assert graded.requests == 42
    assert graded.tokens_in > 10 * one.tokens_in


def test_measured_steps_replace_the_guess_once_there_are_enough() -> None:
    steps = ("attributes", "needs", "verify", "synthesis")
    few = dict.fromkeys(steps, (19, 100.0, 10.0))
    assert estimate([HAMMER], 0, PRICED, few) == estimate([HAMMER], 0, PRICED, {})
    enough = dict.fromkeys(steps, (20, 100.0, 10.0))
    measured = estimate([HAMMER] * 5, 0, PRICED, enough)
    assert (measured.tokens_in, measured.tokens_out) == (2000, 200)
