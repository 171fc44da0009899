"""A command line of the CLI and where its options come from: one form for every launch mode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

Image = Literal["airflow", "spark", "ray"]


def partition_param() -> Param:
    """The partition of a run that is started by hand; a scheduled run carries its own key."""
    return Param(
        None,
        type=["null", "string"],
        format="date",
        description="the UTC date to build (YYYY-MM-DD); empty: the run's partition key",
    )


def partition_of(context: Mapping[str, Any]) -> str:
    """Resolve the run's partition: the operator's, else the run's key; never today's date.

    Raises:
        InputError: the run has neither.
    """
    from pipelines.errors import InputError

    partition = context["params"].get("partition") or context["dag_run"].partition_key
    if not partition:
        raise InputError('this run has no partition: trigger it with {"partition": "YYYY-MM-DD"}')
    return str(partition)


@dataclass(frozen=True)
class Command:
    """One command of the CLI and where its options come from.

    Attributes:
        fixed: flags with the values that this DAG always passes.
        flags: flags whose value is a DAG param; None and False leave the flag out, True passes it
            bare.
        settings: settings, such as `recommend.top_k`, whose value is a DAG param.
    """

    name: str
    image: Image
    partitioned: bool = True
    fixed: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def argv(self, context: Mapping[str, Any]) -> list[str]:
        """Build the arguments after `reckoner`; every launch mode runs exactly these."""
        argv = [self.name]
        if self.partitioned:
            argv += ["--partition", partition_of(context)]
        for flag, value in self.fixed.items():
            argv += [flag, value]
        for flag, name in self.flags.items():
            value = context["params"].get(name)
            if value is not None and value is not False:
                argv += [flag] if value is True else [flag, str(value)]
        return argv

    def environment(self, context: Mapping[str, Any]) -> dict[str, str]:
        """Build the variables beside the settings.

        The attempt is the moment this try started, in milliseconds: the lake skips a publish that
        is older than the one it holds, so a zombie of an earlier try cannot overwrite a later one.
        """
        instance = context["ti"]
        given = {path: context["params"].get(name) for path, name in self.settings.items()}
        return {
            "RECKONER_ATTEMPT": str(int(instance.start_date.timestamp() * 1000)),
            "RECKONER_RUN_ID": f"{instance.dag_id}/{instance.run_id}/{instance.try_number}",
        } | {
            f"RECKONER_{path.upper().replace('.', '__')}": str(value)
            for path, value in given.items()
            if value is not None
        }

    def finish(self, code: int, context: Mapping[str, Any], detail: str = "") -> None:
        """Turn an exit code into what Airflow and its retry policy understand.

        Exit 0 gives the outlets' events the partition that was built, which for a run started by
        hand is not the run's own key.

        Raises:
            InputError: exit 2.
            GateRefused: exit 3.
            ServiceUnavailable: exit 4.
            RuntimeError: any other code but 0.
            AirflowSkipException: a dry run is done; nothing was published, so no asset event.
        """
        from pipelines import errors

        line = f"reckoner {' '.join(self.argv(context))} ended with exit {code} {detail}".strip()
        if code == errors.EXIT_INPUT:
            raise errors.InputError(line)
        if code == errors.EXIT_REFUSED:
            raise errors.GateRefused(line, [detail or "the reasons are in this task's log"])
        if code == errors.EXIT_UNAVAILABLE:
            raise errors.ServiceUnavailable(line)
        if code != errors.EXIT_DONE:
            raise RuntimeError(line)
        if "--dry-run" in self.argv(context):
            raise AirflowSkipException("dry run: nothing was published")
        if self.partitioned:
            announce(context)


def announce(context: Mapping[str, Any]) -> None:
    """Give every outlet event of this task the partition that the run built."""
    for asset in context["task"].outlets:
        context["outlet_events"][asset].add_partitions(partition_of(context))
