"""Generate a small shop: daily deliveries of items and events, as real ones are, dirt included.

People pursue intents. An intent is a ring of six categories that is walked in one direction, and
every category lies on three rings: what comes next follows from where somebody has been, not from
the last item alone. Brands are kept within an intent, models recur every second step, a purchase
leads to its accessory, and intents change with time. Deterministic by seed.
"""

import csv
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.shop_goods import BRANDS, LEAVES, Good, make_catalogue

COLUMNS = (
    "user_id",
    "item_id",
    "action",
    "ts",
    "position",
    "session_id",
    "surface",
    "query",
    "value",
)
RING = 6
RINGS_PER_LEAF = 3
KEEP_INTENT = 0.9  # from one visit to the next
STAY = 0.12  # look at another item of the same category
STRAY = 0.05  # look at something unrelated
RECALL = 0.7  # choose the same model as two steps ago
CART, BUY, ACCESSORY = 0.12, 0.55, 0.6
LATE, TWICE, MALFORMED = 0.004, 0.004, 0.003
CHANGED_ITEMS = 0.01  # share of the catalogue whose price or availability changes per day


@dataclass(frozen=True)
class ShopSize:
    """How large the shop is; the defaults give some 120,000 events in 40 days."""

    days: int = 40
    users: int = 3000
    items: int = 800
    visits_per_day: int = 720
    new_users: int = 15
    new_items: int = 8


@dataclass
class Person:
    """A user and what is on their mind; `step` is the direction of the walk."""

    user_id: str
    tastes: list[int]
    ring: int = 0
    place: int = 0
    step: int = 1
    brand: str = ""
    models: list[int] = field(default_factory=list)
    visits: int = 0


Event = dict[str, Any]


class Shop:
    """The state of the shop as its days go by."""

    def __init__(self, size: ShopSize, until: date, seed: int) -> None:
        """Invent catalogue, intents and people."""
        self.size = size
        self.first = until - timedelta(days=size.days - 1)
        self.dice = random.Random(f"shop-{seed}")
        self.catalogue = make_catalogue(self.dice, size.items, size.new_items, size.days - 1)
        self.rings = self._make_rings()
        accessories = [good for good in self.catalogue.goods if not good.since]
        self.accessory = {g.item_id: self.dice.choice(accessories) for g in self.catalogue.goods}
        self.people = [self._make_person(number) for number in range(size.users)]
        settled = size.users - size.new_users
        # A few come daily, most hardly ever.
        self.weights = [min(self.dice.paretovariate(1.1), 40.0) for _ in range(settled)]
        self.pending: list[tuple[int, Event]] = []  # late events and the day that delivers them

    def day(self, number: int) -> tuple[list[dict[str, object]], list[Event]]:
        """Play one day: the items and events that its delivery holds, before any dirt."""
        items = self._changes(number)
        people = self.dice.choices(
            self.people[: len(self.weights)], self.weights, k=self.size.visits_per_day
        )
        if number >= self.size.days - 2:
            people += self.people[len(self.weights) :][number % 2 :: 2] * 2
        today = [event for person in people for event in self._visit(person, number)]
        today.sort(key=lambda event: (event["ts"], event["session_id"], event["position"]))
        delivered = [event for due, event in self.pending if due == number]
        self.pending = [(due, event) for due, event in self.pending if due != number]
        for event in today:
            if self.dice.random() < LATE and number + 1 < self.size.days:
                due = min(number + self.dice.randint(1, 3), self.size.days - 1)
                self.pending.append((due, event))
            else:
                delivered.append(event)
        return items, delivered

    def _make_rings(self) -> list[list[int]]:
        rings = []
        for _ in range(RINGS_PER_LEAF):
            leaves = list(range(len(LEAVES)))
            self.dice.shuffle(leaves)
            rings += [leaves[i : i + RING] for i in range(0, len(leaves), RING)]
        return rings

    def _make_person(self, number: int) -> Person:
        tastes = self.dice.sample(range(len(self.rings)), 3)
        return Person(f"u{number + 1:05d}", tastes)

    def _changes(self, number: int) -> list[dict[str, object]]:
        on_sale = [good for good in self.catalogue.goods if good.since <= number]
        if number == 0:
            return [good.record() for good in on_sale]
        changed = self.dice.sample(on_sale, max(1, int(CHANGED_ITEMS * len(on_sale))))
        for good in changed:
            if not good.available or self.dice.random() < 0.3:
                good.available = not good.available
            else:
                good.price = round(good.price * self.dice.uniform(0.85, 1.15), 2)
        fresh = [good for good in on_sale if good.since == number and good not in changed]
        return [good.record() for good in [*fresh, *changed]]

    def _visit(self, person: Person, number: int) -> Iterator[Event]:
        dice = self.dice
        if not person.visits or dice.random() > KEEP_INTENT:
            self._new_intent(person)
        person.visits += 1
        moment = datetime.combine(self.first + timedelta(days=number), datetime.min.time(), UTC)
        moment += timedelta(seconds=int(86_000 * dice.betavariate(4, 2.5)))
        last = moment.replace(hour=23, minute=59, second=59)
        session = f"{person.user_id}-{person.visits}"
        surface = dice.choice(("home", "search", "category", "newsletter"))
        place = 0
        for _ in range(1 + min(int(dice.expovariate(0.35)), 20)):
            good = self._next_good(person, number)
            bought = False
            for action in self._actions():
                yield _event(person, good, action, moment, place, session, surface)
                place += 1
                bought = action == "purchase"
                # Cart and purchase may bear one second: only the position tells their order.
                gaps = (0, 5, 21) if action == "cart" else (9, 31, 64, 150)
                moment = min(moment + timedelta(seconds=dice.choice(gaps)), last)
            if bought and dice.random() < ACCESSORY:
                extra = self.accessory[good.item_id]
                person.models.append(extra.variant)
                yield _event(person, extra, "view", moment, place, session, "product")
                place += 1

    def _actions(self) -> Iterator[str]:
        yield "view"
        if self.dice.random() < CART:
            yield "cart"
            if self.dice.random() < BUY:
                yield "purchase"

    def _new_intent(self, person: Person) -> None:
        dice = self.dice
        if dice.random() < 0.1:  # tastes drift
            person.tastes[dice.randrange(len(person.tastes))] = dice.randrange(len(self.rings))
        person.ring = dice.choice(person.tastes)
        person.place = dice.randrange(RING)
        person.step = dice.choice((1, -1))
        person.brand = dice.choice(list(BRANDS))
        person.models = []

    def _next_good(self, person: Person, number: int) -> Good:
        dice = self.dice
        if dice.random() < STRAY:
            good = dice.choice(self.catalogue.goods)
            if good.since <= number and good.available:
                return good
        if dice.random() > STAY:
            person.place = (person.place + person.step) % RING
        leaf = self.rings[person.ring][person.place]
        shelf = self._on_sale(self.catalogue.shelves.get((leaf, person.brand), []), number)
        shelf = shelf or self._on_sale(self.catalogue.goods, number)
        if len(person.models) > 1 and dice.random() < RECALL:
            good = shelf[person.models[-2] % len(shelf)]
        else:  # the first of a shelf sell best
            good = shelf[min(int(dice.expovariate(0.9)), len(shelf) - 1)]
        person.models.append(good.variant)
        return good

    def _on_sale(self, goods: list[Good], number: int) -> list[Good]:
        return [good for good in goods if good.since <= number and good.available]


def _event(
    person: Person,
    good: Good,
    action: str,
    moment: datetime,
    place: int,
    session: str,
    surface: str,
) -> Event:
    return {
        "user_id": person.user_id,
        "item_id": good.item_id,
        "action": action,
        "ts": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "position": place,
        "session_id": session,
        "surface": surface,
        "query": LEAVES[good.leaf][1].lower() if surface == "search" else "",
        "value": good.price if action == "purchase" else "",
    }


def make_shop(folder: Path, until: date, seed: int, size: ShopSize | None = None) -> dict[str, Any]:
    """Write the deliveries, one folder per day: `2026-03-01/events.csv` and `items.jsonl`.

    Args:
        folder: created where it does not exist; deliveries of the same dates are replaced.
        until: the last day.
        seed: the same seed writes the same bytes.
        size: how large.
    """
    size = size or ShopSize()
    shop = Shop(size, until, seed)
    dirt = random.Random(f"dirt-{seed}")
    lines = 0
    for number in range(size.days):
        items, events = shop.day(number)
        day = shop.first + timedelta(days=number)
        target = folder / day.isoformat()
        target.mkdir(parents=True, exist_ok=True)
        text = _events_csv(events, dirt)
        lines += text.count("\n") - 1
        (target / "events.csv").write_text(text, encoding="utf-8")
        (target / "items.jsonl").write_text(_items_jsonl(items, number), encoding="utf-8")
    return {
        "folder": str(folder),
        "first_date": shop.first.isoformat(),
        "last_date": until.isoformat(),
        "users": size.users,
        "items": size.items,
        "event_rows": lines,
    }


def _events_csv(events: list[Event], dirt: random.Random) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for event in events:
        row = [event[name] for name in COLUMNS]
        if dirt.random() < MALFORMED:
            writer.writerow(_spoil(row, dirt))  # beside the row: a broken line is seldom alone
        writer.writerow(row)
        if dirt.random() < TWICE:
            writer.writerow(row)
    return sink.getvalue()


def _spoil(row: list[Any], dirt: random.Random) -> list[Any]:
    """Break a row in one of the ways in which exports break."""
    user, ts, value = (COLUMNS.index(name) for name in ("user_id", "ts", "value"))
    broken = list(row)
    kind = dirt.randrange(5)
    if kind == 0:
        broken[ts] = "yesterday"
    elif kind == 1:
        broken[user] = ""
    elif kind == 2:
        return broken[: value - 1]
    elif kind == 3:
        broken[value] = "12,50 EUR"
    else:
        broken[ts] = str(int(row[ts][:4]) + 10) + row[ts][4:]
    return broken


def _items_jsonl(items: list[dict[str, object]], number: int) -> str:
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    if number == 0:  # later deliveries are small: a broken row would be a large share of them
        nameless = json.dumps({**items[0], "item_id": "P0001", "title": ""})
        lines += [nameless, lines[0][: len(lines[0]) // 2]]
    return "\n".join(lines) + "\n"
