"""The rate, the caps and the breaker, by the clock that the test keeps."""

from pipelines.knowledge.quota import Limits, Quota

SPENT = (60, 40, 0.01)


def test_leave_is_spaced_whoever_asks() -> None:
    quota = Quota(Limits(requests_per_second=10))
    slots = [quota.acquire(100.0, 1, 0.0).wait_s for _ in range(25)]
    assert [round(slot, 6) for slot in slots] == [n / 10 for n in range(25)]
    # An idle second is not saved up for a burst.
    assert quota.acquire(200.0, 1, 0.0).wait_s == 0
    assert round(quota.acquire(200.0, 1, 0.0).wait_s, 6) == 0.1


def test_a_cap_holds_with_many_in_flight_and_is_used_up() -> None:
    quota = Quota(Limits(1000, max_tokens=1000))
    in_flight = 0
    for _ in range(100):
        grant = quota.acquire(0.0, 300, 0.0)
        if grant.again:
            assert in_flight
            quota.settle(0.0, 300, 0.0, SPENT)
            in_flight -= 1
        elif grant.stop:
            break
        else:
            in_flight += 1
    for _ in range(in_flight):
        quota.settle(0.0, 300, 0.0, SPENT)
    assert quota.stop is not None
    assert quota.stop.kind == "budget"
    assert 700 < quota.tokens_in + quota.tokens_out <= 1000


def test_dollars_are_a_cap_too() -> None:
    quota = Quota(Limits(1000, max_cost_usd=0.025))
    for _ in range(2):
        assert quota.acquire(0.0, 1, 0.01).stop is None
        quota.settle(0.0, 1, 0.01, SPENT)
    stop = quota.acquire(0.0, 1, 0.01).stop
    assert stop is not None
    assert "$0.0200 of 0.025" in stop.why


def test_the_breaker_wants_both_a_row_of_failures_and_a_silence() -> None:
    quota = Quota(Limits(1000, breaker_failures=3, breaker_seconds=10))

    def fail(now: float) -> None:
        quota.acquire(now, 1, 0.0)
        quota.settle(now, 1, 0.0, None)

    for now in (0, 1, 2, 9):
        fail(now)
    assert quota.stop is None  # many, but not for long
    quota.acquire(9, 1, 0.0)
    quota.settle(9, 1, 0.0, SPENT)
    fail(11)
    fail(30)
    assert quota.stop is None  # long, but not many: the answer at 9 began a new row
    fail(31)
    assert quota.stop is not None
    assert quota.stop.kind == "breaker"
    assert "3 requests in a row failed over 20 s" in quota.stop.why
    assert quota.acquire(32, 1, 0.0).stop == quota.stop
    assert (quota.answered, quota.failed, quota.in_flight) == (1, 7, 0)
