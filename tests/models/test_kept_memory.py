"""Freed memory stays with the process, and the environment has the last word."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from models.kept_memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        held = [torch.zeros(6 * 2**20) for _ in range(3)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults(10)
kept = keep_freed_memory()
faults(1)
print(kept, fresh, faults(10))
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told")
def test_large_tensors_need_no_fresh_pages() -> None:
    kept, before, after = run()
    assert kept == "True"
    assert int(after) * 10 < int(before)


def test_the_environment_has_the_last_word() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
