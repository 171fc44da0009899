"""Samples that a rerun draws again: by a name's digest, never by chance."""

import hashlib


def is_drawn(name: str, share: float) -> bool:
    """Say whether a name is among the `share` (0 to 1) of all names that are drawn."""
    draw = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
    return draw < share * 2**32
