"""Run a step on Kubernetes: in a pod of its image, or on a Ray cluster of its own (a RayJob)."""

import hashlib
import re
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import BaseSensorOperator
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from dags.command import Command
from infra import manifests
from pipelines.settings import Settings

RAY_JOBS = ("ray.io", "v1", "rayjobs")
# What Ray's job supervisor writes into the job's message when the entrypoint fails.
EXIT_CODE = re.compile(r"failed with exit code (\d+)")


class PodStep(KubernetesPodOperator):
    """Run the command in a pod; while it runs, the wait is the triggerer's."""

    def __init__(self, *, command: Command, settings: Settings, **kwargs: Any) -> None:
        super().__init__(
            name=command.name,
            namespace=settings.launch.namespace,
            pod_template_dict=manifests.pod(settings.launch, command.image),
            cmds=["reckoner"],
            deferrable=True,
            on_finish_action="delete_succeeded_pod",
            **kwargs,
        )
        self.command = command

    def execute(self, context: Any) -> None:
        """Create the pod with the command's arguments and environment, and wait for it."""
        self.arguments = self.command.argv(context)
        self.env_vars = [
            client.V1EnvVar(name=name, value=value)
            for name, value in self.command.environment(context).items()
        ]
        super().execute(context)

    def cleanup(
        self, pod: Any, remote_pod: Any, xcom_result: Any = None, context: Any = None
    ) -> None:
        """Let the exit code decide what the pod's end means, after the provider's own cleaning."""
        code = self._exit_code(remote_pod)
        try:
            super().cleanup(pod, remote_pod, xcom_result=xcom_result, context=context)
        finally:
            if code is not None and context is not None:
                self.command.finish(code, context)

    def _exit_code(self, pod: Any) -> int | None:
        """Read the container's exit code; None where it has not run to its end."""
        statuses = (pod.status.container_statuses or []) if pod and pod.status else []
        for status in statuses:
            if status.name == self.base_container_name and status.state.terminated:
                return int(status.state.terminated.exit_code)
        return None


class RayJobStep(BaseSensorOperator):
    """Create the RayJob once, then look at it every half minute without holding a worker slot.

    The job's name follows from run and try, so a look after a crash finds the job that runs.
    """

    def __init__(self, *, command: Command, settings: Settings, **kwargs: Any) -> None:
        super().__init__(
            mode="reschedule",
            poke_interval=30,
            timeout=manifests.RAY_JOB_SECONDS + 3600,
            **kwargs,
        )
        self.command = command
        self.settings = settings

    def poke(self, context: Any) -> bool:
        """Create the job where it does not exist; say whether it is done.

        Raises:
            Exception: what `Command.finish` makes of the entrypoint's exit code.
        """
        jobs, name = KubernetesHook().custom_object_client, self.job_name(context)
        namespace = self.settings.launch.namespace
        try:
            job: Any = jobs.get_namespaced_custom_object(*RAY_JOBS[:2], namespace, "rayjobs", name)
        except ApiException as error:
            if error.status != 404:
                raise
            argv, variables = self.command.argv(context), self.command.environment(context)
            body = manifests.ray_job(self.settings.launch, name, argv, variables)
            jobs.create_namespaced_custom_object(*RAY_JOBS[:2], namespace, "rayjobs", body)
            self.log.info("created RayJob %s/%s", namespace, name)
            return False
        status = job.get("status", {})
        self.log.info("RayJob %s is %s", name, status.get("jobDeploymentStatus") or "New")
        if status.get("jobDeploymentStatus") not in ("Complete", "Failed"):
            return False
        message = f"{status.get('reason', '')} {status.get('message', '')}".strip()
        if status.get("jobStatus") == "SUCCEEDED":
            self.command.finish(0, context)
        else:
            found = EXIT_CODE.search(message)
            self.command.finish(int(found[1]) if found else 1, context, message)
        return True

    def job_name(self, context: Any) -> str:
        """Name the job after step, run and try: at most 47 characters, KubeRay's limit."""
        instance = context["ti"]
        run = f"{instance.dag_id}/{instance.run_id}/{instance.try_number}"
        return f"{self.command.name[:36]}-{hashlib.sha256(run.encode()).hexdigest()[:10]}"
