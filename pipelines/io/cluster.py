"""One place that starts or joins Ray."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import structlog

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.reachable import require_answer
from pipelines.settings.groups import RaySettings

log = structlog.get_logger()


@contextmanager
def ray_cluster(settings: RaySettings) -> Iterator[None]:
    """Join the cluster at `ray.address`, or run one on this machine, for the block's duration.

    Raises:
        ServiceUnavailable: the address does not answer.
    """
    if ray.is_initialized():
        yield
        return
    # A few hundred lines of usage notices and progress bars would bury the step's own log.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A worker's report waits for the train controller's next look, by default 2 seconds away: a
    # short epoch would be nothing but waiting.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if settings.address:
        _join(settings.address)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=settings.object_store_mb * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    try:
        yield
    finally:
        ray.shutdown()


def require_room(settings: RaySettings) -> None:
    """Say so when the training workers do not fit into the running cluster: Ray only waits.

    Raises:
        InputError: they never will, on a Ray that was started here; a cluster may yet grow.
    """
    workers = settings.num_workers
    wanted = {"CPU": workers * settings.cpus_per_worker, "GPU": workers * settings.use_gpu}
    there = ray.cluster_resources()
    lacking = " and ".join(
        f"{count:g} {kind}s of {there.get(kind, 0.0):g}"
        for kind, count in wanted.items()
        if count > there.get(kind, 0.0)
    )
    if not lacking:
        return
    if settings.address is None:
        raise InputError(
            f"RECKONER_RAY__NUM_WORKERS={workers} asks for {lacking} on this machine: set fewer "
            "workers, less for each (RECKONER_RAY__CPUS_PER_WORKER, RECKONER_RAY__USE_GPU) or a "
            "cluster's RECKONER_RAY__ADDRESS"
        )
    log.warning("waiting until the Ray cluster has room", asks_for=lacking, num_workers=workers)


def _join(address: str) -> None:
    if address != "auto":
        require_answer("Ray", address, "RECKONER_RAY__ADDRESS")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise ServiceUnavailable(
            f"no Ray cluster answers at {address} (RECKONER_RAY__ADDRESS): {error}"
        ) from error
    log.info("joined a Ray cluster", address=address, resources=ray.cluster_resources())
