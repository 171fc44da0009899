"""Settings from the environment and from files, and what an unknown key is answered."""

import os
from pathlib import Path

import pytest

from pipelines.errors import InputError
from pipelines.settings import load_settings


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "night.toml"
    file.write_text('[spark]\nmaster = "spark://a:7077"\nshuffle_partitions = 3\n')
    monkeypatch.setenv("RECKONER_SETTINGS", str(file))
    monkeypatch.setenv("RECKONER_SPARK__MASTER", "local[1]")
    settings = load_settings()
    assert settings.spark.master == "local[1]"
    assert settings.spark.shuffle_partitions == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", "recommend:\n  top_k: 7\n"), ("a.json", '{"recommend": {"top_k": 7}}')],
)
def test_yaml_and_json_files(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("RECKONER_SETTINGS", str(tmp_path / name))
    assert load_settings().recommend.top_k == 7


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("RECKONER_SPARK__MASTR", "RECKONER_SPARK__MASTER"),
        ("RECKONER_LAKE", "RECKONER_LAKE_URI"),
        ("RECKONER_RECOMMEND_TOP_K", "RECKONER_RECOMMEND__TOP_K"),
    ],
)
def test_an_unknown_variable_names_the_nearest(
    variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InputError, match=f"unknown setting {variable}; .* is {nearest}$"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RECKONER_SEQUENCES__ACTIONS", "view"), ("RECKONER_STORAGE_OPTIONS", "abc")],
)
def test_a_list_or_map_that_is_no_json_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name}: lists and maps are written as JSON"):
        load_settings("/lake")


def test_an_unknown_key_in_a_file_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text("[gate]\nmin_coverge = 0.1\n")
    monkeypatch.setenv("RECKONER_SETTINGS", str(tmp_path / "a.toml"))
    with pytest.raises(InputError, match=r"gate\.min_coverge; .* is gate\.min_coverage"):
        load_settings()


def test_an_unknown_key_of_a_group_in_json_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECKONER_GATE", '{"min_coverge": 0.1}')
    with pytest.raises(InputError, match=r"gate\.min_coverge; .* is gate\.min_coverage"):
        load_settings()


def test_an_empty_address_is_no_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECKONER_LAKE_URI", "")
    with pytest.raises(InputError, match="setting lake_uri = ''"):
        load_settings()


def test_a_value_out_of_range_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECKONER_RECOMMEND__TOP_K", "0")
    with pytest.raises(InputError, match=r"recommend\.top_k = '0'"):
        load_settings()


def test_a_missing_or_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "a.toml"
    broken.write_text("[spark\n")
    latin = tmp_path / "b.yaml"
    latin.write_bytes("lake_uri: caf\u00e9".encode("latin-1"))
    for path, words in (
        (tmp_path / "none.toml", "not a file"),
        (broken, "settings file .*a.toml"),
        (latin, "settings file .*b.yaml.*utf-8"),
    ):
        monkeypatch.setenv("RECKONER_SETTINGS", str(path))
        with pytest.raises(InputError, match=words):
            load_settings()


def test_a_free_mapping_takes_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECKONER_SPARK__CONF", '{"spark.ui.port": "4050"}')
    assert load_settings().spark.conf == {"spark.ui.port": "4050"}


def test_local_lakes_are_absolute_and_remote_ones_stay() -> None:
    assert os.path.isabs(load_settings("lake").lake_uri)
    assert load_settings("s3://shop/lake").lake_uri == "s3://shop/lake"
