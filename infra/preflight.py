"""Check Python and Java before anything is installed; runs on a bare interpreter."""

import os
import re
import shutil
import subprocess
import sys

MIN_PYTHON = (3, 11)
MIN_JAVA = 17
ADVICE = (
    "install a JRE >= 17: Debian/Ubuntu openjdk-17-jre-headless, Fedora java-17-openjdk-headless"
)


def find_java() -> str | None:
    """Return the java that Spark would start: JAVA_HOME first, then the PATH."""
    home = os.environ.get("JAVA_HOME")
    if home:
        candidate = os.path.join(home, "bin", "java")
        return candidate if os.access(candidate, os.X_OK) else None
    return shutil.which("java")


def java_major(banner: str) -> int | None:
    """Read the major version from what `java -version` prints (1.8.0 is 8)."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', banner)
    if match is None:
        return None
    major = int(match[1])
    return int(match[2] or 0) if major == 1 else major


def java_problem() -> str | None:
    """Say in one line what is wrong with this machine's Java, or None."""
    java = find_java()
    if java is None:
        return f"no Java found: {ADVICE}"
    result = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    major = java_major(result.stderr + result.stdout)
    if major is None:
        return f"{java} -version answers nothing that names a version: {ADVICE}"
    if major < MIN_JAVA:
        return f"{java} is Java {major}: {ADVICE}"
    return None


def main() -> None:
    """Stop with one line where Python or Java will not do."""
    if sys.version_info < MIN_PYTHON:
        sys.exit(f"Python {sys.version.split()[0]} is too old: install Python >= 3.11")
    problem = java_problem()
    if problem:
        sys.exit(problem)


if __name__ == "__main__":
    main()
