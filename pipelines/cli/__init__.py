"""The `reckoner` command: every step that Airflow runs, and what a person looks things up with."""

from pipelines.cli.main import main

__all__ = ["main"]
