"""Keep what was checked before a publish in `monitoring`."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.step import Context
from pipelines.tables.publishing import MONITORING

OK, FAILED, NOTED = "ok", "failed", "noted"


@dataclass(frozen=True)
class Check:
    """One line of `monitoring`.

    Attributes:
        threshold: the bound that was applied; None where the value is only noted.
    """

    name: str
    value: float
    baseline: float | None
    threshold: float | None
    passed: bool
    detail: str

    @property
    def status(self) -> str:
        """ok, failed, or noted where there is no bound."""
        if self.threshold is None:
            return NOTED
        return OK if self.passed else FAILED


def publish_checks(context: Context, subject: str, checks: list[Check]) -> None:
    """Replace a subject's rows of the night; other subjects' rows stay."""
    new = monitoring_rows(checks, subject)

    def merge(existing: pa.Table) -> pa.Table:
        others = existing.filter(pc.not_equal(existing["subject"], subject))
        return pa.concat_tables([others.select(new.schema.names).cast(new.schema), new])

    context.lake.publish_merged("monitoring", context.ds, merge)


def monitoring_rows(checks: list[Check], subject: str) -> pa.Table:
    """The checks as rows of `monitoring`."""
    rows = [
        {
            "subject": subject,
            "check": check.name,
            "value": float(check.value),
            "baseline": check.baseline,
            "threshold": check.threshold,
            "status": check.status,
        }
        for check in checks
    ]
    return pa.Table.from_pylist(rows, schema=MONITORING.stored)
