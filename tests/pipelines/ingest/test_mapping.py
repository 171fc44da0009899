"""Mapping files in three languages, and what is wrong with one in one line."""

import json
import re
from pathlib import Path

import pytest

from pipelines.errors import InputError
from pipelines.ingest.mapping_file import load_mapping
from pipelines.ingest.presets import PRESETS
from tests.conftest import ROOT
from tests.pipelines.ingest.conftest import Shell

YAML = """
events:
  csv: {delimiter: ";", encoding: latin-1}
  user_id: Kunde
  item_id: {column: Artikel, upper: true}
  action: {column: Art, names: {Ansicht: view, Kauf: purchase}}
  ts: {column: Zeit, format: "%d.%m.%Y %H:%M", timezone: Europe/Berlin}
  value: {column: Menge, times: Preis}
  rules:
    - {skip: test customer, column: Kunde, matches: "^test"}
    - {reject: no price, column: Preis, at_most: 0}
"""
TOML = """
[events]
user_id = "Kunde"
action = {column = "Art", names = {Ansicht = "view", Kauf = "purchase"}}
item_id = {column = "Artikel", upper = true}
ts = {column = "Zeit", format = "%d.%m.%Y %H:%M", timezone = "Europe/Berlin"}
value = {column = "Menge", times = "Preis"}
[events.csv]
delimiter = ";"
encoding = "latin-1"
[[events.rules]]
skip = "test customer"
column = "Kunde"
matches = "^test"
[[events.rules]]
reject = "no price"
column = "Preis"
at_most = 0
"""


def write(tmp_path: Path, text: str, name: str = "map.yaml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_three_languages_say_the_same(tmp_path: Path) -> None:
    yaml = load_mapping(write(tmp_path, YAML))
    assert load_mapping(write(tmp_path, TOML, "map.toml")) == yaml
    text = yaml.model_dump_json(exclude_defaults=True)
    assert load_mapping(write(tmp_path, text, "map.json")) == yaml


def test_a_shop_of_its_own(shell: Shell, tmp_path: Path) -> None:
    lines = ["Kunde;Artikel;Art;Zeit;Menge;Preis"]
    lines += [f"M\xfcller{n};a1;Kauf;01.03.2026 10:00;2;1.5" for n in range(40)]
    lines += ["test1;a1;Kauf;01.03.2026 10:00;1;1", "M;a1;Kauf;01.03.2026 10:00;1;0"]
    source = tmp_path / "tag.csv"
    source.write_bytes("\n".join(lines).encode("latin-1"))
    mapping = write(tmp_path, YAML)
    words = ("--partition", "2026-03-01", "--source", source, "--mapping", mapping)
    result = shell.done("ingest-events", *words)
    assert result["skipped"] == {"test customer": 1}
    assert result["rejected_reasons"] == {"no price": 1}
    row = shell.rows("events", "2026-03-01")[0]
    assert (row["user_id"], row["item_id"], row["value"]) == ("M\xfcller0", "A1", 3.0)
    assert row["ts"].hour == 9
    (refused,) = shell.rows("events_rejected", "2026-03-01")
    assert (refused["reason"], refused["source_row"]) == ("no price: Preis '0'", 42)
    assert json.loads(refused["payload"])["Kunde"] == "M"


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("user_idd:", "user_id:", "unknown key events.user_idd; the nearest known one is user_id"),
        ("formt:", "format:", "unknown key events.ts.formt; the nearest known one is format"),
        (
            "mathces:",
            "matches:",
            "unknown key events.rules.0.mathces; the nearest known one is mat",
        ),
        ("name:", "names:", "unknown key events.action.name; the nearest known one is names"),
        ("user: Kunde", "user_id: Kunde", "unknown key events.user"),
        ("Europe/Berlln", "Europe/Berlin", "'Europe/Berlln' is not a time zone"),
        ("format: second", 'format: "%d.%m.%Y %H:%M"', "did you mean 'seconds'?"),
        ("encoding: latin-99", "encoding: latin-1", "'latin-99' is not an encoding"),
        ("at_most: 0, below: 0", "at_most: 0", "exactly one condition"),
        ("Kauf: ''", "Kauf: purchase", "events.action.names.Kauf"),
        ("user_id: {}", "user_id: Kunde", "either a column or a constant"),
        ("events: [", "events:", "map.yaml"),
        ("event:", "events:", "unknown key event; the nearest known one is events"),
    ],
)
def test_mistakes(tmp_path: Path, wrong: str, right: str, words: str) -> None:
    path = write(tmp_path, YAML.replace(right, wrong, 1))
    with pytest.raises(InputError) as caught:
        load_mapping(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_part(shell: Shell, tmp_path: Path) -> None:
    words = ("ingest-items", "--partition", "2026-03-01", "--source", tmp_path)
    assert "is not a file" in shell(*words, "--mapping", tmp_path / "none.yaml").message
    answer = shell(*words, "--mapping", write(tmp_path, YAML))
    assert answer.code == 2
    assert "says nothing about items: add a part `items`" in answer.message


def test_every_preset_covers_events_and_items() -> None:
    for layouts in PRESETS.values():
        assert any(layout.mapping.events for layout in layouts)
        assert any(layout.mapping.items for layout in layouts)


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "inputs.md").read_text()
    blocks = re.findall(r"```(yaml|toml|json)\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["yaml", "toml", "json"]
    for kind, block in blocks:
        assert load_mapping(write(tmp_path, block, f"map.{kind}")).events
    assert not [name for name in PRESETS if f"| `{name}` |" not in text]
