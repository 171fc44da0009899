"""The contract of every table: schema, key, constraints, partitioning and version.

Schemas only grow: a new nullable column raises `version`; a changed or removed column needs a new
table and a decision. `docs/tables.md` is generated from this package.
"""

from pipelines.tables.behaviour import (
    EVENTS,
    EVENTS_REJECTED,
    ITEM_GRAPH,
    ITEM_INDEX,
    ITEMS,
    ITEMS_REJECTED,
    SEQUENCES,
)
from pipelines.tables.contract import Contract
from pipelines.tables.knowledge import (
    CATEGORY_ONTOLOGY,
    ITEM_KNOWLEDGE,
    ITEM_KNOWLEDGE_FAILED,
    LLM_ANSWERS,
    USER_INTERESTS,
    USER_INTERESTS_FAILED,
)
from pipelines.tables.publishing import MONITORING, PIPELINE_RUNS, RANKER_METRICS, RECOMMENDATIONS
from pipelines.tables.vectors import ITEM_VECTORS, SEMANTIC_IDS, SEMANTIC_SLOTS, VECTOR_FITS

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        EVENTS,
        EVENTS_REJECTED,
        ITEMS,
        ITEMS_REJECTED,
        ITEM_INDEX,
        SEQUENCES,
        ITEM_GRAPH,
        ITEM_KNOWLEDGE,
        ITEM_KNOWLEDGE_FAILED,
        CATEGORY_ONTOLOGY,
        LLM_ANSWERS,
        ITEM_VECTORS,
        VECTOR_FITS,
        SEMANTIC_IDS,
        SEMANTIC_SLOTS,
        USER_INTERESTS,
        USER_INTERESTS_FAILED,
        RECOMMENDATIONS,
        RANKER_METRICS,
        MONITORING,
        PIPELINE_RUNS,
    )
}


def data_dictionary() -> str:
    """Write the tables as Markdown, for `docs/tables.md`."""
    lines = [
        "# Tables",
        "",
        "Generated from `pipelines/tables` by `python -m pipelines.tables`; do not edit.",
    ]
    for table in CONTRACTS.values():
        where = "partitioned by `ds`" if table.by_ds else "not partitioned"
        key = ", ".join(f"`{name}`" for name in table.key) or "none"
        feed = "; change data feed on" if table.change_feed else ""
        lines += ["", f"## {table.name}", "", table.about, ""]
        lines += [f"Contract version {table.version}; {where}; key: {key}{feed}.", ""]
        lines += ["| column | type | null | note |", "|---|---|---|---|"]
        for column in table.schema:
            null = "yes" if column.nullable else "no"
            note = table.notes.get(column.name, "")
            rules = [f"`{check.sql}`" for check in table.checks if check.column == column.name]
            text = "; ".join(filter(None, [note, *rules]))
            lines.append(f"| {column.name} | `{column.type}` | {null} | {text} |")
    return "\n".join(lines) + "\n"
