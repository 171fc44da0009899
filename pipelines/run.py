"""What one run of one step read and wrote: the provenance that its commits carry."""

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from importlib.metadata import version

from pipelines.errors import InputError

ATTEMPT_VARIABLE = "RECKONER_ATTEMPT"
RUN_ID_VARIABLE = "RECKONER_RUN_ID"


@dataclass
class Run:
    """A run's identity and its record of table versions.

    Attributes:
        attempt: when the attempt was queued, in milliseconds: an older attempt that wakes up late
            must not overwrite a newer one's partition.
        inputs: content hash per `table/ds` that was read; None where that partition had no rows.
        rebuilt_for: the partition that `inputs` belong to.
    """

    run_id: str
    step: str
    partition: str | None
    code_version: str
    attempt: int
    model_version: str = ""
    input_versions: dict[str, int] = field(default_factory=dict)
    output_versions: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str | None] = field(default_factory=dict)
    rows: int = 0

    @classmethod
    def start(cls, step: str, partition: str | None, code_version: str | None = None) -> "Run":
        """Open the record of a step; the launcher may fix run id and attempt by environment."""
        queued = os.environ.get(ATTEMPT_VARIABLE)
        if queued is not None and not queued.isdigit():
            raise InputError(f"{ATTEMPT_VARIABLE}={queued!r} is not a number of milliseconds")
        return cls(
            run_id=os.environ.get(RUN_ID_VARIABLE) or uuid.uuid4().hex,
            step=step,
            partition=partition,
            code_version=code_version or version("reckoner"),
            attempt=int(queued) if queued else time.time_ns() // 1_000_000,
        )

    @classmethod
    def unrecorded(cls) -> "Run":
        """A throwaway record, for look-ups that are not part of a step."""
        return cls("", "", None, "", 0)

    def saw(self, table: str, table_version: int) -> None:
        """Record the version of a table that was read; the first one stands."""
        self.input_versions.setdefault(table, table_version)

    def used(self, table: str, ds: str, content: str | None) -> None:
        """Record the contents of a partition that was read."""
        self.inputs[f"{table}/{ds}"] = content

    def forget_inputs(self) -> None:
        """Begin another partition within the same step, or the same one again."""
        self.inputs.clear()
        self.input_versions.clear()

    def wrote(self, table: str, table_version: int, rows: int) -> None:
        """Record a commit."""
        self.output_versions[table] = table_version
        self.rows += rows

    def inputs_json(self, table: str, ds: str | None) -> str:
        """The partitions read, without the one that is being replaced."""
        own = f"{table}/{ds}"
        return json.dumps({k: v for k, v in sorted(self.inputs.items()) if k != own})

    def metadata(self, table: str, ds: str | None) -> dict[str, str]:
        """The keys that a commit carries; values are texts, nested ones JSON."""
        return {
            "run_id": self.run_id,
            "step": self.step,
            "partition": ds or "",
            "code_version": self.code_version,
            "model_version": self.model_version,
            "input_versions": json.dumps(self.input_versions, sort_keys=True),
            "inputs": self.inputs_json(table, ds),
        }
