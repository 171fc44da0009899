"""What each partition's last publishing commit said about itself.

The log is the lake's memory of provenance: readers of contents never need it, staleness does.
"""

from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

VERSION = "committed_version"


class CommitLog:
    """The publishing commits of one table, read on as its version advances."""

    def __init__(self) -> None:
        self._version = -1
        self._published: dict[str, dict[str, Any]] = {}

    def published(self, handle: DeltaTable) -> Mapping[str, dict[str, Any]]:
        """The metadata of each partition's last publishing commit, as of the handle's version.

        Commits that only move rows between files, such as compaction, carry no fingerprint and
        are passed over.
        """
        version = handle.version()
        if version < self._version:
            self._version, self._published = -1, {}
        if version > self._version:
            for commit in reversed(_commits(handle, self._version)):
                if "content_hash" in commit and commit.get("partition"):
                    self._published[str(commit["partition"])] = commit
            self._version = version
        return self._published


def _commits(handle: DeltaTable, after: int) -> list[dict[str, Any]]:
    """List our own commits later than a version, up to the handle's, newest first.

    delta-rs reads on to the newest commit on disk and numbers what it finds downwards from the
    handle's version, so the numbers are wrong as soon as somebody else has committed. Ours carry
    their own.
    """
    limit = None if after < 0 else handle.version() - after
    found = []
    for commit in handle.history(limit):
        if VERSION in commit and after < int(commit[VERSION]) <= handle.version():
            found.append(commit | {"version": int(commit[VERSION])})
    return found
