"""Find out in seconds whether a service answers, before a client waits for minutes."""

import socket
import time
from urllib.parse import urlsplit

import structlog

from pipelines.errors import ServiceUnavailable

log = structlog.get_logger()

TRIES, TIMEOUT_S, PAUSE_S = 3, 5.0, 1.0
DEFAULT_PORTS = {"http": 80, "https": 443, "sc": 15002, "spark": 7077, "ray": 10001}


def require_answer(service: str, address: str, setting: str) -> None:
    """Connect to `scheme://host:port` (or `host:port`; several separated by commas).

    Raises:
        ServiceUnavailable: none of the hosts took a connection in three tries; names the setting.
    """
    scheme, _, rest = address.rpartition("://")
    hosts = [urlsplit(f"//{one}") for one in rest.split(",")]
    reason: OSError | str = "no host and port in it"
    for attempt in range(TRIES):
        if attempt:
            log.warning("no answer yet", service=service, address=address)
            time.sleep(PAUSE_S)
        for host in hosts:
            port = host.port or DEFAULT_PORTS.get(scheme)
            if host.hostname is None or port is None:
                continue
            try:
                socket.create_connection((host.hostname, port), TIMEOUT_S).close()
            except OSError as error:
                reason = error
            else:
                return
    raise ServiceUnavailable(
        f"{service} at {address} does not answer ({reason}): start it, or correct {setting}"
    )
