"""A machine without the right Java is told so in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.preflight import java_major

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("banner", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_401"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("no such thing", None),
    ],
)
def test_the_major_version_is_read(banner: str, major: int | None) -> None:
    assert java_major(banner) == major


def preflight(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, str(ROOT / "infra" / "preflight.py")]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def fake_java(folder: Path, banner: str) -> dict[str, str]:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
    java.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}


def test_no_java_names_the_package(tmp_path: Path) -> None:
    done = preflight({"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "openjdk-17-jre-headless" in done.stderr


def test_an_old_java_is_named(tmp_path: Path) -> None:
    done = preflight(fake_java(tmp_path, 'openjdk version "11.0.2"'))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "is Java 11" in done.stderr


def test_a_new_java_passes_silently(tmp_path: Path) -> None:
    done = preflight(fake_java(tmp_path, 'openjdk version "17.0.1"'))
    assert (done.returncode, done.stderr) == (0, "")
