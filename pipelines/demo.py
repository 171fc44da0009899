"""`make demo`: a generated shop, its history, and two nights end to end on this machine.

Everything lies under `.reckoner`: the shop's deliveries, the lake, the registry and the report.
Each step is the `reckoner` command that a scheduler would run; the commands are printed.
"""

import os
import shutil
import sys
import time
from datetime import date
from pathlib import Path

from pipelines.cli import main
from pipelines.partition import Partition
from pipelines.report import sample_users
from pipelines.run import Run
from pipelines.settings import load_settings
from pipelines.shop import make_shop

HOME = Path(".reckoner")
LAST_NIGHT = date(2026, 3, 1)
NIGHTS = 2
PEOPLE = 3
SETTINGS = {
    "RECKONER_EVENTS__SOURCE": str(HOME / "shop/nightly/{partition}/events.csv"),
    "RECKONER_ITEMS__SOURCE": str(HOME / "shop/nightly/{partition}/items.jsonl"),
    "RECKONER_TRAIN__RECIPE": "smoke",
    # The first night trains, since there is no champion; its weekday is the weekly one.
    "RECKONER_TRAIN__WEEKDAY": "5",
    "RECKONER_SPARK__DRIVER_MEMORY": "1g",
    "RECKONER_SPARK__SHUFFLE_PARTITIONS": "4",
    # Short JVMs never earn back what the optimising compiler costs.
    "RECKONER_SPARK__CONF": (
        '{"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}'
    ),
}


def deliver(home: Path) -> list[str]:
    """Write the shop's deliveries: a history in one piece, and a folder per night.

    Returns:
        The dates of the history's last day and of the nights.
    """
    shop = home / "shop"
    shutil.rmtree(shop, ignore_errors=True)
    make_shop(shop / "history", LAST_NIGHT, seed=0)
    days = sorted(path for path in (shop / "history").iterdir() if path.is_dir())
    (shop / "nightly").mkdir()
    for day in days[-NIGHTS:]:
        day.rename(shop / "nightly" / day.name)
    with (shop / "history-items.jsonl").open("w", encoding="utf-8") as catalogue:
        for day in days[:-NIGHTS]:
            catalogue.write((day / "items.jsonl").read_text(encoding="utf-8"))
            (day / "items.jsonl").unlink()
    return [day.name for day in days[-NIGHTS - 1 :]]


def reckoner(*words: str) -> None:
    """Run one command as a person would, and stop the demo where it fails."""
    print(f"\n$ reckoner {' '.join(words)}", flush=True)
    code = main(words)
    if code:
        sys.exit(code)


def demo() -> None:
    """Run the whole thing and say where to look."""
    began = time.monotonic()
    os.environ.update({key: os.environ.get(key, value) for key, value in SETTINGS.items()})
    print("generating a small shop: 40 days of deliveries, dirt included")
    before, *nights = deliver(HOME)
    shop = HOME / "shop"
    reckoner("ingest-events", "--all-partitions", "--source", str(shop / "history"))
    items = str(shop / "history-items.jsonl")
    reckoner("ingest-items", "--partition", before, "--source", items)
    for night in nights:
        reckoner("nightly", "--partition", night)
    _show_people(nights[-1])
    reckoner("tables")
    reckoner("report", "--partition", nights[-1])
    print(
        f"\ntwo nights in {time.monotonic() - began:.0f} s; look again with reckoner show --user ID"
    )


def _show_people(night: str) -> None:
    from pipelines.io.lake import Lake

    settings = load_settings()
    lake = Lake(settings.lake_uri, Run.unrecorded())
    for user in sample_users(lake, Partition.parse(night).ds, PEOPLE):
        reckoner("show", "--user", user)


if __name__ == "__main__":
    demo()
