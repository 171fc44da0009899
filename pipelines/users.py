"""Who gets a list tonight, and what each of them has had that their sequence no longer holds."""

from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.bought import Bought, Window, active_users, read_bought
from pipelines.histories import require_sequences
from pipelines.partition import Partition
from pipelines.step import Context

BEGINNING = Partition(date.min)


@dataclass(frozen=True)
class Audience:
    """Tonight's users.

    Attributes:
        users: everybody with an event inside the lookback.
        without_history: those among them whose events the sequence filters left out.
        bought: what users had beyond their sequence.
    """

    users: list[str]
    without_history: list[str]
    bought: Bought


def find_audience(context: Context) -> Audience:
    """Read the night's users from its sequences, and from the events where those are filtered.

    What somebody had before the lookback counts as bought too: sequences forget, lists may not.

    Raises:
        InputError: the partition has no sequences.
    """
    lake, ds = context.lake, context.ds
    require_sequences(lake, ds)
    lake.run.used("sequences", ds, lake.content("sequences", ds))
    rows = lake.dataset("sequences").to_table(
        columns=["user_id", "length"], filter=pc.field("ds") == ds
    )
    settings = context.settings.sequences
    filtered = bool(settings.actions or settings.session_gap_minutes)
    cut = rows.filter(pc.greater_equal(rows["length"], settings.max_length))[
        "user_id"
    ].combine_chunks()
    night = context.partition
    assert night is not None
    first = night.back(settings.lookback_days - 1)
    with_history = set(rows["user_id"].to_pylist())
    # Filters leave users out, so that the lookback is read for its users and again for pairs.
    active = active_users(context, Window(first, night)) if filtered else set()
    users = sorted(with_history | active)
    recent = Window(first, night, None if filtered else cut)
    older = Window(BEGINNING, first.back(1), pa.array(users, pa.string()))
    windows = [] if context.settings.recommend.allow_repeats else [recent, older]
    bought = read_bought(context, users, windows)
    return Audience(users, sorted(active - with_history), bought)
