"""Run one `reckoner` command line: in this task's process, in a pod, or as a RayJob.

`RECKONER_LAUNCH__MODE` chooses; the command line is the same one, built by `Command.argv`.
"""

import os
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Asset, BaseOperator

from dags.command import Command


class LocalStep(BaseOperator):
    """Run the command in the task's own process."""

    def __init__(self, *, command: Command, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command

    def execute(self, context: Any) -> None:
        """Call the CLI with the command's arguments and environment."""
        from pipelines.cli import main

        os.environ.update(self.command.environment(context))  # the process ends with the task
        self.command.finish(main(self.command.argv(context)), context)


def step(command: Command, *, outlets: Sequence[Asset] = (), **kwargs: Any) -> BaseOperator:
    """Make the task that runs `command` the way `RECKONER_LAUNCH__MODE` says."""
    from pipelines.settings import load_settings

    settings = load_settings()
    arguments: dict[str, Any] = {"task_id": command.name, "outlets": list(outlets), **kwargs}
    if settings.launch.mode == "local":
        return LocalStep(command=command, **arguments)
    from dags import cluster

    if settings.launch.mode == "rayjob" and command.image == "ray":
        return cluster.RayJobStep(command=command, settings=settings, **arguments)
    return cluster.PodStep(command=command, settings=settings, **arguments)
