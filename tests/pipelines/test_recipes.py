"""Recipes by name: the written ones, and one per ranker."""

import pytest

from models.registry import configure, names
from pipelines.errors import InputError
from pipelines.recipes import RECIPES, recipe_named


@pytest.mark.parametrize("name", [*RECIPES, *names()])
def test_every_recipe_and_every_ranker_can_be_trained_by_name(name: str) -> None:
    recipe = recipe_named(name, {"max_epochs": "3", "max_length": "20"})
    assert recipe.name == name
    assert recipe.fit.max_epochs == 3
    assert configure(recipe.ranker, **recipe.ranker_settings).max_length == 20
    if name not in RECIPES:
        assert recipe.ranker == name


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="the nearest is rearec-prl"):
        recipe_named("rearec-plr")


def test_overrides_are_json_where_they_are_json() -> None:
    patient = recipe_named("mancar", {"halt_divergence": "null", "cooldown": "null"})
    assert patient.ranker_settings == {"halt_divergence": None}
    assert recipe_named("tgh", {"ring_budgets": "[3, 2, 1]"}).ranker_settings == {
        "ring_budgets": [3, 2, 1]
    }
