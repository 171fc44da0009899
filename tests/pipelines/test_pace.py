"""When long work is spoken of."""

import pytest

from pipelines.pace import Pace


class Clock:
    """Seconds that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_time_again_only_after_the_seconds_have_passed() -> None:
    clock = Clock()
    pace = Pace(5.0, clock)
    assert not pace.is_due()
    clock.now += 5.1
    assert pace.is_due()
    assert not pace.is_due()
    clock.now += 5.1
    assert pace.is_due()


def test_the_rest_is_told_by_the_share_that_is_done() -> None:
    clock = Clock()
    pace = Pace(5.0, clock)
    clock.now += 4.0
    assert pace.seconds_left(0.1) is None
    clock.now += 4.0
    assert pace.seconds_left(0.2) == pytest.approx(8.0 * 4)
    assert pace.seconds_left(0.3) is None
    clock.now += 22.0
    assert pace.seconds_left(1.0) == 0.0
