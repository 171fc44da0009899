"""A real scheduler backfills two dates; the downstream DAGs follow with the same keys."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local_airflow import LocalAirflow, free_port
from tests.dags.airflow_client import FINAL, AirflowClient, wait_for

# Saturday and Sunday: the second one ends a training week.
DATES = ["2026-02-28", "2026-03-01"]
FOLLOWING = ["behaviour_sequences", "item_knowledge", "nightly_recommendations"]
# Enough items that ten unseen ones are left for everybody on the second day.
USERS, ITEMS, TOP_K = 6, 60, 10
# About two minutes on two idle cores; this only ends a run that hangs.
HANGS_AFTER = 1800


def write_inbox(folder: Path) -> None:
    """Write two days of a small shop: one file of events and one of items a day."""
    titles = [(f"i{item}", f"Item number {item}") for item in range(ITEMS)]
    for day, date in enumerate(DATES):
        with (folder / f"events-{date}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["user_id", "item_id", "action", "ts"])
            for user in range(USERS):
                for turn in range(4):
                    item = (3 * user + 5 * day + turn) % ITEMS
                    rows.writerow(
                        [f"u{user}", f"i{item}", "view", f"{date}T10:{user:02d}:{turn:02d}Z"]
                    )
        with (folder / f"items-{date}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["item_id", "title"], *titles])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Run Airflow's four parts on SQLite and loopback, and leave none of their processes."""
    folder = tmp_path_factory.mktemp("airflow")
    inbox = folder / "inbox"
    inbox.mkdir()
    write_inbox(inbox)
    settings = {
        "RECKONER_LAKE_URI": str(folder / "lake"),
        "RECKONER_EVENTS__SOURCE": f"{inbox}/events-{{partition}}.csv",
        "RECKONER_ITEMS__SOURCE": f"{inbox}/items-{{partition}}.csv",
        "RECKONER_SPARK__MASTER": "local[1]",
        "RECKONER_SPARK__DRIVER_MEMORY": "512m",
        "RECKONER_SPARK__SHUFFLE_PARTITIONS": "1",
        # Nothing has been trained, so every list is the marked popularity fallback.
        "RECKONER_RECOMMEND__MAX_FALLBACK_SHARE": "1",
        "RECKONER_RAY__OBJECT_STORE_MB": "80",
        # The DAG files do not change while this runs.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    }
    airflow = LocalAirflow(folder / "home", free_port(), settings)
    airflow.prepare()
    with airflow.running(log=airflow.home):
        yield airflow
    assert [process for process in psutil.process_iter() if belongs_to(process, airflow)] == []


def belongs_to(process: psutil.Process, airflow: LocalAirflow) -> bool:
    """Say whether Airflow, or a task of it, started the process."""
    try:
        return process.environ().get("AIRFLOW_HOME") == str(airflow.home)
    except psutil.Error:  # it ended meanwhile
        return False


def test_backfill_runs_downstream_and_publishes_each_partition(local: LocalAirflow) -> None:
    client = AirflowClient(local)
    wait_for(lambda: client.dag_ids() >= set(FOLLOWING), "the DAGs to be parsed", 60)
    for dag_id in FOLLOWING:
        client.unpause(dag_id)
    local.run(
        *("backfill", "create", "--dag-id", "behaviour_sequences"),
        *("--from-date", DATES[0], "--to-date", DATES[-1]),
    )

    def finished() -> bool:
        ended = {(dag_id, key): run["state"] for dag_id in FOLLOWING for key, run in runs(dag_id)}
        failed = [run for run, state in ended.items() if state == "failed"]
        assert not failed, (failed, logs(local, failed[0][0]))
        return len(ended) == len(FOLLOWING) * len(DATES) and set(ended.values()) <= FINAL

    def runs(dag_id: str) -> list[tuple[str, dict[str, Any]]]:
        return [(key, run) for key, run in client.runs(dag_id).items() if key in DATES]

    wait_for(finished, "all runs to end", HANGS_AFTER)

    for dag_id in FOLLOWING:
        assert sorted(key for key, _ in runs(dag_id)) == DATES
    assert published(local, "sequences") == dict.fromkeys(DATES, USERS)
    assert published(local, "recommendations") == dict.fromkeys(DATES, USERS * TOP_K)
    week = [client.tasks(run)["close-week"]["state"] for _, run in sorted(runs(FOLLOWING[0]))]
    assert week == ["skipped", "success"]


def test_night_without_input_fails_at_once(local: LocalAirflow) -> None:
    """Unpausing made the last night due, for which the inbox has no file: exit 2, one try."""
    client = AirflowClient(local)
    (last_night,) = set(client.runs("behaviour_sequences")) - set(DATES)

    def ended() -> bool:
        return client.runs("behaviour_sequences")[last_night]["state"] in FINAL

    wait_for(ended, "the scheduled run to end", HANGS_AFTER)
    run = client.runs("behaviour_sequences")[last_night]
    assert run["state"] == "failed"
    ingest = client.tasks(run)["ingest-events"]
    assert (ingest["state"], ingest["try_number"]) == ("failed", 1)
    assert last_night not in client.runs("nightly_recommendations")


def published(local: LocalAirflow, table: str) -> dict[str, int]:
    """Count the rows of each partition that readers see."""
    from deltalake import DeltaTable

    rows = DeltaTable(f"{local.settings['RECKONER_LAKE_URI']}/{table}").to_pyarrow_table(
        columns=["ds", "user_id"]
    )
    counts = rows.group_by("ds").aggregate([("user_id", "count")]).to_pylist()
    return {row["ds"]: row["user_id_count"] for row in counts}


def logs(local: LocalAirflow, dag_id: str) -> str:
    """The ends of a DAG's task logs, for a failure's message."""
    files = sorted((local.home / "logs" / f"dag_id={dag_id}").rglob("*.log"))
    return "\n".join(f"--- {file}\n{file.read_text()[-3000:]}" for file in files)
