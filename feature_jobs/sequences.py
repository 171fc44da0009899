"""Behaviour sequences: each user's latest events, oldest first.

One order holds throughout: ts, then the source's position (rows without one after those that have
one), then item_id, then action. A day's events are ranked and cut before any list is formed, so
that a user with a million events costs a sort, never an array.

Merging yesterday's sequences with today's events gives what building from all events gives,
because each rule looks only at an event and what follows it: a repeat is dropped for the sake of
its successor, truncation keeps a suffix, and the lookback drops a prefix of whole days.
"""

from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

LISTS = ("item_idx", "action", "ts")
MINUTE_US = 60_000_000


@dataclass(frozen=True)
class SequenceRules:
    """Which events a sequence holds.

    Attributes:
        max_length: events kept per user, the latest.
        actions: actions kept; all where empty.
        collapse_repeats: of consecutive events on one item keep the last.
        session_gap_minutes: a longer silence begins another session; None: no sessions.
        min_session_length: sessions of fewer events are dropped.
    """

    max_length: int
    actions: tuple[str, ...] = ()
    collapse_repeats: bool = False
    session_gap_minutes: int | None = None
    min_session_length: int = 1

    @property
    def drops_sessions(self) -> bool:
        """Say whether whole sessions are judged; one may span midnight, so days cannot merge."""
        return self.session_gap_minutes is not None and self.min_session_length > 1


def keep_actions(events: DataFrame, rules: SequenceRules) -> DataFrame:
    """Keep the events of the wanted actions."""
    return events.where(F.col("action").isin(*rules.actions)) if rules.actions else events


def list_events(events: DataFrame, index: DataFrame, rules: SequenceRules) -> DataFrame:
    """Cut each user's events to the latest that the rules keep and collect them, oldest first.

    Args:
        events: user_id, item_id, action, ts, position; already of the wanted actions.
        index: item_id, item_idx; holds every item of the events.
        rules: what to keep.

    Returns:
        user_id and the lists item_idx, action, ts; users with no event left are absent.
    """
    kept = _of_long_sessions(events, rules) if rules.drops_sessions else events
    latest_first = Window.partitionBy("user_id").orderBy(
        F.col("ts").desc(),
        F.col("position").desc_nulls_first(),
        F.col("item_id").desc(),
        F.col("action").desc(),
    )
    if rules.collapse_repeats:
        kept = kept.withColumn("following", F.lag("item_id").over(latest_first))
        kept = kept.where(F.col("following").isNull() | (F.col("following") != F.col("item_id")))
    kept = kept.withColumn("back", F.row_number().over(latest_first))
    kept = kept.where(F.col("back") <= rules.max_length).join(index, "item_id")
    steps = F.collect_list(F.struct((-F.col("back")).alias("at"), *LISTS))
    lists = kept.groupBy("user_id").agg(F.array_sort(steps).alias("steps"))
    return lists.select("user_id", *[F.col(f"steps.{name}").alias(name) for name in LISTS])


def merge_day(
    yesterday: DataFrame,
    known_users: DataFrame,
    today: DataFrame,
    rules: SequenceRules,
    first_ts: datetime,
    *,
    few_users: bool,
) -> DataFrame:
    """Bring yesterday's sequences forward by one day of events.

    The rows of inactive users pass through: no list is sorted again and, where the day's users
    fit in memory, nothing of yesterday is shuffled.

    Args:
        yesterday: user_id, item_idx, action, ts.
        known_users: user_id of the same rows, read on its own.
        today: the day's events as `list_events` gives them; used three times, so persist it.
        rules: those that yesterday was built with; they may not drop sessions.
        first_ts: the first instant of the day's lookback; older events leave.
        few_users: `today` fits in each executor's memory.

    Returns:
        user_id and the lists item_idx, action, ts, some perhaps empty.
    """
    assert not rules.drops_sessions, "a session may span midnight"
    new = today.select("user_id", *[F.col(name).alias(f"new_{name}") for name in LISTS])
    active = today.select("user_id")
    known = known_users.join(F.broadcast(active) if few_users else active, "user_id", "left_semi")
    arrived = today.join(F.broadcast(known) if few_users else known, "user_id", "left_anti")
    kept = [_since(first_ts, F.col(name)).alias(name) for name in LISTS]
    forward = yesterday.select("user_id", *kept)
    forward = forward.join(F.broadcast(new) if few_users else new, "user_id", "left")
    return forward.select("user_id", *_appended(rules)).unionByName(arrived)


def with_length(lists: DataFrame) -> DataFrame:
    """Add length and last_ts; users with no event left disappear."""
    length = F.size("item_idx")
    last = F.get(F.col("ts"), length - 1)
    left = lists.where(length > 0)
    return left.select("user_id", *LISTS, length.alias("length"), last.alias("last_ts"))


def _of_long_sessions(events: DataFrame, rules: SequenceRules) -> DataFrame:
    """Drop the events of sessions that are too short."""
    assert rules.session_gap_minutes is not None
    in_time = Window.partitionBy("user_id").orderBy("ts")
    silence = F.unix_micros("ts") - F.lag(F.unix_micros("ts")).over(in_time)
    limit = rules.session_gap_minutes * MINUTE_US
    begins = F.coalesce(silence > limit, F.lit(False)).cast("int")
    session = F.sum("begins").over(in_time)  # equal times share a frame, hence a session
    numbered = events.withColumn("begins", begins).withColumn("session", session)
    size = F.count(F.lit(1)).over(Window.partitionBy("user_id", "session"))
    return numbered.withColumn("size", size).where(F.col("size") >= rules.min_session_length)


def _since(first_ts: datetime, column: Column) -> Column:
    """Drop the leading part of a list that is older than the lookback."""
    first = F.lit(first_ts)
    gone = F.size(F.filter("ts", lambda ts: ts < first))
    # Most lists lose nothing on a night: they pass without being copied.
    intact = F.get(F.col("ts"), F.lit(0)) >= first
    return F.when(intact, column).otherwise(F.slice(column, gone + 1, F.size(column)))


def _appended(rules: SequenceRules) -> list[Column]:
    """Put today's lists behind yesterday's and keep the latest events."""
    before = F.size("item_idx")
    if rules.collapse_repeats:
        repeats = F.get(F.col("item_idx"), before - 1) == F.get(F.col("new_item_idx"), F.lit(0))
        before = before - F.coalesce(repeats, F.lit(False)).cast("int")
    total = before + F.size("new_item_idx")
    skip = F.greatest(total - rules.max_length, F.lit(0))
    merged = []
    for name in LISTS:
        both = F.concat(F.slice(F.col(name), F.lit(1), before), F.col(f"new_{name}"))
        active = F.slice(both, skip + 1, F.lit(rules.max_length))
        untouched = F.col("new_item_idx").isNull()
        merged.append(F.when(untouched, F.col(name)).otherwise(active).alias(name))
    return merged
