"""One place that starts Spark: the same job runs here, on a cluster, or through Spark Connect."""

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from pipelines.io.reachable import require_answer
from pipelines.io.spark_lake import LakeSource
from pipelines.settings.groups import SparkSettings

_registering = threading.Lock()
_registered: weakref.WeakSet[SparkSession] = weakref.WeakSet()


@contextmanager
def spark_session(settings: SparkSettings, app: str) -> Iterator[SparkSession]:
    """Yield a session and stop it at the end, unless one was already running here.

    `spark.master` decides where: local[N], spark://, k8s:// or sc:// for Spark Connect. Executors
    of a cluster need the `spark` image, which carries this package.
    """
    running = _running()
    session = running or build(settings, app)
    register_lake(session)
    # Writing finds a data source only through the calling thread's own active session, which
    # making a frame sets; a thread other than the one that started Spark has none so far.
    session.createDataFrame([], "nothing int")
    try:
        yield session
    finally:
        if running is None:
            session.stop()


def register_lake(session: SparkSession) -> None:
    """Make the `reckoner_lake` format known to a session, once.

    Registering again takes the format away for a moment, under the feet of other threads' jobs.
    """
    with _registering:
        if session not in _registered:
            session.dataSource.register(LakeSource)
            _registered.add(session)


def _running() -> SparkSession | None:
    """Find this process's session, whichever thread started it."""
    try:
        return SparkSession.active()
    except PySparkRuntimeError:
        return None


def build(settings: SparkSettings, app: str) -> SparkSession:
    """Start a session with the settings' master, memory and configuration.

    Raises:
        ServiceUnavailable: the master does not answer.
    """
    if settings.master.startswith(("spark://", "sc://")):
        require_answer("Spark", settings.master, "RECKONER_SPARK__MASTER")
    builder = SparkSession.builder.appName(f"reckoner {app}")
    if settings.master.startswith("sc://"):
        builder = builder.remote(settings.master)
    else:
        builder = builder.master(settings.master)
        builder = builder.config("spark.driver.memory", settings.driver_memory)
        builder = builder.config("spark.executor.memory", settings.executor_memory)
        builder = builder.config("spark.ui.enabled", "false")
        # The progress bar would share standard error with the structured log.
        builder = builder.config("spark.ui.showConsoleProgress", "false")
    if settings.master.startswith("local"):
        # Workers are started by name: they must be this interpreter, on the loopback interface.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
        builder = builder.config("spark.driver.host", "127.0.0.1")
    builder = builder.config("spark.sql.session.timeZone", "UTC")
    builder = builder.config("spark.sql.shuffle.partitions", str(settings.shuffle_partitions))
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if not settings.master.startswith("sc://"):
        session.sparkContext.setLogLevel("ERROR")
    return session
