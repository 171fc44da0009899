"""A person's history in few words."""

from datetime import UTC, date, datetime, timedelta

from pipelines.knowledge.requests import tokens_of
from pipelines.knowledge.user_history import Event, compress, inverted, told_until
from pipelines.settings.groups import InterestSettings

PLAIN = InterestSettings()
ITEMS = {
    "h": {"title": "Steel <b>hammer</b>", "category": ["Tools", "Hammers"], "brand": "Ferrum"},
    "s": {"title": "Saw", "category": [], "brand": None},
}


def on(day: int, item: str, action: str = "purchase", month: int = 2) -> Event:
    return item, action, datetime(2026, month, day, tzinfo=UTC)


def test_items_are_gathered_the_latest_first_and_clicks_are_dropped() -> None:
    events = [
        on(1, "h", "cart"),
        on(2, "s"),
        on(3, "h"),
        on(4, "h"),
        on(5, "s", "View"),
        on(6, "x"),
    ]
    lines = compress(events, ITEMS, PLAIN)
    assert [(line.number, line.item_id, line.times) for line in lines] == [
        (1, "x", 1),
        (2, "h", 3),
        (3, "s", 1),
    ]
    assert inverted(lines) == [
        {"month": "2026-02", "action": "purchase", "items": ["1: x", "3: Saw"]},
        {
            "month": "2026-02",
            "action": "cart+purchase",
            "items": ["2: Steel hammer (Hammers, Ferrum) x3"],
        },
    ]
    only = compress(events, ITEMS, InterestSettings(actions=("View",)))
    assert [line.item_id for line in only] == ["s"]


def test_a_history_keeps_within_its_tokens() -> None:
    events = [on(1 + n % 28, f"item number {n}", month=1 + n // 28) for n in range(300)]
    settings = InterestSettings(max_history_tokens=200, max_items=1000)
    lines = compress(events, {}, settings)
    assert lines[0].item_id == "item number 299"
    assert 10 < len(lines) < 60
    assert tokens_of(str(inverted(lines))) < 1.5 * 200
    assert len(compress(events, {}, InterestSettings(max_items=7))) == 7


def test_everybody_has_a_turn_once_in_a_while_and_the_same_one_every_time() -> None:
    nights = [date(2026, 3, 1) + timedelta(days=n) for n in range(28)]
    turns = {}
    for user in (f"user-{n}" for n in range(200)):
        ends = [told_until(user, night, 14) for night in nights]
        for night, end in zip(nights, ends, strict=True):
            closed = datetime(night.year, night.month, night.day, tzinfo=UTC) + timedelta(days=1)
            assert timedelta() <= closed - end < timedelta(days=14)
        assert ends == sorted(ends)
        assert len(set(ends)) in (2, 3)
        turns[user] = ends[-1]
    assert len(set(turns.values())) == 14  # no night bears the load of all
    assert told_until("u", nights[0], 1) == datetime(2026, 3, 2, tzinfo=UTC)
