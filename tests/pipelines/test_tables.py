"""The contracts and what is generated from them."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import InputError
from pipelines.tables import CONTRACTS, data_dictionary
from pipelines.tables.publishing import RECOMMENDATIONS

ROOT = Path(__file__).resolve().parents[2]


def test_the_data_dictionary_is_current() -> None:
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == data_dictionary(), "run: python -m pipelines.tables > docs/tables.md"


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.name)
def test_keys_and_checks_name_required_columns(contract: object) -> None:
    from pipelines.tables.contract import Contract

    assert isinstance(contract, Contract)
    for name in (*contract.key, *(check.column for check in contract.checks)):
        assert not contract.schema.field(name).nullable, name
    assert ("ds" in contract.schema.names) == contract.by_ds


def test_conform_names_missing_and_unknown_columns() -> None:
    with pytest.raises(InputError, match=r"missing columns .*'rank'.*unknown \['colour'\]"):
        RECOMMENDATIONS.conform(pa.table({"user_id": ["u"], "colour": ["red"]}))
