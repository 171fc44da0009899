"""What is known of two items becomes part of a reason, and nothing hidden in it gets through."""

from pathlib import Path
from typing import Any

from pipelines.reasons import sentence
from pipelines.shared_traits import SharedTraits, plain, read_traits, traits_of
from tests.pipelines.builders import a_lake, rows_of

DS = "2026-03-10"


def known(**fields: Any) -> dict[str, Any]:
    empty = ("category", "key_phrases", "audiences", "occasions", "intents", "complements")
    return {name: [] for name in empty} | {"brand": None, "attributes": [], **fields}


def between(one: dict[str, Any], two: dict[str, Any], *others: dict[str, Any]) -> str | None:
    records = enumerate((one, two, *others), start=1)
    return SharedTraits({number: traits_of(record) for number, record in records}).between(1, 2)


def test_the_most_telling_trait_is_named() -> None:
    one = known(occasions=["Camping trips", "picnics"], brand="Acme", category=["Garden", "Stoves"])
    assert (
        between(one, known(occasions=["camping trips"], brand="Acme")) == "both for camping trips"
    )
    assert between(one, known(brand="ACME")) == "both by acme"
    assert between(one, known(category=["Home", "stoves"])) == "both in stoves"
    assert between(one, known(category=["Garden", "Tents"])) is None
    cool = known(intents=["keep drinks cold"], attributes=[("colour", "red")])
    assert between(cool, cool) == "both to keep drinks cold"
    assert between(known(attributes=[("colour", "red")]), cool) == "both with colour red"
    assert between(one, known(complements=["Stoves"])) == "the two go together"


def test_of_several_traits_the_rarest_is_named_and_common_ones_never() -> None:
    one = known(occasions=["gifts", "camping"])
    others = [known(occasions=["gifts"])] * 3 + [known()] * 20
    assert between(one, one, *others) == "both for camping"
    assert between(known(brand="acme"), known(brand="acme"), *[known(brand="acme")] * 9) is None


def test_a_reason_with_what_is_shared() -> None:
    history = [("a kettle", "purchase"), ("a tent", "view")]
    expected = "Because you bought 'a kettle' (both for camping) and looked at 'a tent'."
    assert sentence(history, "both for camping") == expected


def test_nothing_hidden_in_a_text_reaches_a_reader() -> None:
    assert plain("red\x1b[2J\u202e kettle\r\n\0", 80) == "red [2J kettle"
    one = known(occasions=["camping\x1b]0;owned\x07\n{0}"])
    shared = between(one, one)
    assert shared == "both for camping ]0;owned {0}"
    assert sentence([("<b>{x}</b>", "view")], shared).startswith(
        "Because you looked at '<b>{x}</b>'"
    )
    assert between(known(occasions=["word " * 50]), known(occasions=["word " * 50])) is None


def test_the_record_of_the_present_text_as_of_the_night(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    base = {"prompt_version": "1", "model": "m", "summary": "", "status": "reasoned"}
    base |= {"tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0, "created_ds": DS}

    def row(item: str, occasion: str, **more: Any) -> dict[str, Any]:
        knowledge = known(occasions=[occasion], substitutes=[])
        return base | {"item_id": item, "content_hash": "now", "knowledge": knowledge} | more

    rows = [
        row("a", "camping"),
        row("a", "extracted", status="extracted", created_ds="2026-03-09", model="offline"),
        row("a", "later", created_ds="2026-03-11", prompt_version="2"),
        row("a", "old text", content_hash="before"),
        row("b", "camping"),
        row("not indexed", "camping"),
    ]
    lake.append("item_knowledge", lambda _: rows_of("item_knowledge", rows))
    hashes = {"a": "now", "b": "now", "not indexed": "now"}
    traits = read_traits(lake, DS, {"a": 1, "b": 2}, hashes)
    assert traits.between(1, 2) == "both for camping"
    assert read_traits(lake, "2026-03-01", {"a": 1, "b": 2}, hashes).between(1, 2) is None
