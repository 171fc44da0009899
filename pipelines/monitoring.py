"""Keep what was checked before a publish in `monitoring`."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.audit import Check, monitoring_rows
from pipelines.step import Context


def publish_checks(context: Context, subject: str, checks: list[Check]) -> None:
    """Replace a subject's rows of the night; other subjects' rows stay."""
    new = monitoring_rows(checks, subject)

    def merge(existing: pa.Table) -> pa.Table:
        others = existing.filter(pc.not_equal(existing["subject"], subject))
        return pa.concat_tables([others.select(new.schema.names).cast(new.schema), new])

    context.lake.publish_merged("monitoring", context.ds, merge)
