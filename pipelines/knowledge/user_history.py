"""A person's history, compressed: reliable actions, gathered by item, then by time and action.

Source: RecGPT (arXiv 2507.22879): unreliable clicks are dropped, events are gathered per item, and
the result is turned inside out, so that month and action are said once for many items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any

from feature_jobs.item_knowledge import plain_text
from pipelines.knowledge.requests import tokens_of
from pipelines.settings.groups import InterestSettings

# What a person does without meaning much by it.
UNRELIABLE = {"view", "click", "pv", "impression", "exposure", "show"}
TITLE_CHARS = 120
# What a group's month, action and punctuation cost.
GROUP_TOKENS = 12

Event = tuple[str, str, datetime]


@dataclass(frozen=True)
class Line:
    """One item of a history.

    Attributes:
        number: how the model names it, from 1, the latest first.
        actions: what the person did, joined by `+`.
        month: of the last time, such as 2026-02.
        times: events.
    """

    number: int
    item_id: str
    actions: str
    month: str
    times: int
    said: str


def compress(
    events: Sequence[Event],
    items: Mapping[str, Mapping[str, Any]],
    settings: InterestSettings,
) -> list[Line]:
    """Compress the events of one person, oldest first, into at most the settings' tokens.

    Args:
        events: item, action and time of each.
        items: title, category and brand of the items; one that is missing is told by its id.
        settings: which actions are reliable, and the bounds.
    """
    gathered: dict[str, list[Event]] = {}
    for event in reversed(events):
        if is_reliable(event[1], settings):
            gathered.setdefault(event[0], []).append(event)
    lines: list[Line] = []
    tokens, groups = 0, set()
    for item_id, mine in list(gathered.items())[: settings.max_items]:
        actions = "+".join(sorted({action for _, action, _ in mine}))
        month = mine[0][2].strftime("%Y-%m")
        times = f" x{len(mine)}" if len(mine) > 1 else ""
        said = f"{len(lines) + 1}: {describe(item_id, items.get(item_id))}{times}"
        cost = tokens_of(said) + (0 if (month, actions) in groups else GROUP_TOKENS)
        if tokens + cost > settings.max_history_tokens:
            break
        groups.add((month, actions))
        tokens += cost
        lines.append(Line(len(lines) + 1, item_id, actions, month, len(mine), said))
    return lines


def inverted(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Say month and actions once for all items that share them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        groups.setdefault((line.month, line.actions), []).append(line.said)
    return [
        {"month": month, "action": actions, "items": items}
        for (month, actions), items in groups.items()
    ]


def is_reliable(action: str, settings: InterestSettings) -> bool:
    """Say whether an action says something of a person."""
    if settings.actions:
        return action in settings.actions
    return action.casefold() not in UNRELIABLE


def describe(item_id: str, item: Mapping[str, Any] | None) -> str:
    """Describe an item in a few words: title, leaf category, brand."""
    if item is None:
        return item_id
    category = list(item.get("category") or [])
    about = ", ".join(filter(None, [category[-1] if category else "", item.get("brand") or ""]))
    title = plain_text(item["title"])[:TITLE_CHARS]
    return f"{title} ({about})" if about else title


def told_until(user_id: str, night: date, refresh_days: int) -> datetime:
    """Find the end of the history that a person's interests are read from on a night.

    Each person's turn comes once in `refresh_days` nights, on days that follow from their id; in
    between the same history is told, so the answer is known and costs nothing. What a night
    publishes is thus a matter of its own data, in whatever order nights are built.

    Returns:
        The first instant that is not told.
    """
    digest = blake2b(user_id.encode(), digest_size=4).digest()
    turn = int.from_bytes(digest, "big") % refresh_days
    since = (night.toordinal() - turn) % refresh_days
    last = night - timedelta(days=since - 1)
    return datetime(last.year, last.month, last.day, tzinfo=UTC)
