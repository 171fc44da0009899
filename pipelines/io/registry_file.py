"""The registry's own SQLite file, which appears whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient

SCHEME = "sqlite:///"


def create_whole(tracking_uri: str) -> None:
    """Create MLflow's database where the URI names an SQLite file that is not there.

    MLflow lays its tables out over several seconds. A kill in between, or a second process at the
    same work, leaves a file that it can neither use nor mend. So they are laid out in a file of
    this process's own, which then gets the name: whoever comes first, for all.
    """
    if not tracking_uri.startswith(SCHEME):
        return
    file = Path(tracking_uri.removeprefix(SCHEME))
    if file.exists():
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    uri = f"{SCHEME}{partial}"
    try:
        MlflowClient(uri, uri).search_experiments(max_results=1)
        with suppress(FileExistsError):
            os.link(partial, file)  # unlike a rename, it never replaces another's
    finally:
        partial.unlink(missing_ok=True)
