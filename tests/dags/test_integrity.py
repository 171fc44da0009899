"""The DAGs load without heavy imports, are thin, and promise what the contract says."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
LINE_CAP = 120
TASKS = {
    "behaviour_sequences": {
        "ingest-events",
        "ingest-items",
        "build-sequences",
        "build-item-graph",
        "close-week",
    },
    "item_knowledge": {"build-item-knowledge", "build-item-vectors"},
    "ranker_training": {"train-ranker", "evaluate-ranker", "promote-ranker"},
    "nightly_recommendations": {"recommend"},
    "table_maintenance": {"maintain-tables"},
}


@pytest.fixture(scope="module")
def bag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS))


def test_dags_are_those_of_the_contract(bag: Any) -> None:
    assert bag.import_errors == {}
    found = {name: {task.task_id for task in dag.tasks} for name, dag in bag.dags.items()}
    assert found == TASKS
    for name, dag in bag.dags.items():
        assert Path(dag.fileloc).stem == name


def test_every_dag_says_whose_it_is_and_when_it_is_late(bag: Any) -> None:
    for name, dag in bag.dags.items():
        assert (dag.doc_md or "").strip(), name
        assert "reckoner" in dag.tags, name
        assert dag.deadline, name
        assert dag.catchup is False, name
        for task in dag.tasks:
            assert task.owner == "recommendations", task
            assert task.retry_policy is not None, task
            assert task.on_failure_callback, task


def test_pools_are_the_ones_that_are_created(bag: Any) -> None:
    created = set(json.loads((ROOT / "infra" / "airflow_pools.json").read_text()))
    used = {task.pool for dag in bag.dags.values() for task in dag.tasks} - {"default_pool"}
    assert used == created


def test_every_awaited_asset_has_a_producer(bag: Any) -> None:
    from airflow.sdk import Asset

    produced = {
        asset.name for dag in bag.dags.values() for task in dag.tasks for asset in task.outlets
    }
    awaited: dict[str, set[str]] = {}
    for name, dag in bag.dags.items():
        condition = getattr(dag.timetable, "asset_condition", None)
        if condition is not None:
            parts = [condition] if isinstance(condition, Asset) else condition.objects
            awaited[name] = {asset.name for asset in parts}
    assert awaited == {
        "item_knowledge": {"sequences"},
        "ranker_training": {"week_of_sequences"},
        "nightly_recommendations": {"sequences", "item_graph", "item_knowledge"},
    }
    assert set.union(*awaited.values()) <= produced


def test_every_command_line_is_one_that_the_cli_has(bag: Any) -> None:
    from typer.main import get_command

    from pipelines.cli.main import app

    commands: Any = get_command(app)
    for dag in bag.dags.values():
        for task in dag.tasks:
            command = getattr(task, "command", None)
            if command is None:
                continue
            options = {
                word for param in commands.commands[command.name].params for word in param.opts
            }
            partition = {"--partition"} if command.partitioned else set()
            assert partition | set(command.fixed) | set(command.flags) <= options, command
            assert set(command.flags.values()) <= set(dag.params), command


def test_every_setting_of_a_command_is_known(bag: Any) -> None:
    from pipelines.settings import known_keys

    commands = [
        task.command
        for dag in bag.dags.values()
        for task in dag.tasks
        if getattr(task, "command", None)
    ]
    assert {key for command in commands for key in command.settings} <= set(known_keys())


def test_parsing_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(DAGS)!r})\n"
        "heavy = {'torch', 'ray', 'pyspark', 'mlflow', 'deltalake', 'pandas', 'kubernetes'}\n"
        "sys.exit(repr((bag.import_errors, sorted(heavy & set(sys.modules)), len(bag.dags))))\n"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.splitlines()[-1] == "({}, [], 5)"


@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda file: file.stem)
def test_files_are_thin(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LINE_CAP
    tree = ast.parse(text)
    top_level = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)]
    imported = {
        alias
        for node in top_level
        for alias in ([node.module] if isinstance(node, ast.ImportFrom) else [])
        if alias is not None
    }
    if file.stem in TASKS:
        assert not any(name.startswith(("pipelines", "infra", "models")) for name in imported)
        loops = (ast.For, ast.While, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
        assert [type(node).__name__ for node in ast.walk(tree) if isinstance(node, loops)] == []
