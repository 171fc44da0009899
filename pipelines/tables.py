"""The contract of every table: schema, key, constraints, partitioning and version.

Schemas only grow: a new nullable column raises `version`; a changed or removed column needs a new
table and a decision. `docs/tables.md` is generated from this file.
"""

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError

UTC_TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXTS = pa.list_(pa.string())
MAP = pa.map_(pa.string(), pa.string())
KNOWLEDGE = pa.struct(
    [
        ("category", TEXTS),
        ("brand", pa.string()),
        ("attributes", MAP),
        ("key_phrases", TEXTS),
        ("audiences", TEXTS),
        ("occasions", TEXTS),
        ("intents", TEXTS),
        ("complements", TEXTS),
        ("substitutes", TEXTS),
    ]
)
CLAIMS = pa.list_(
    pa.struct([(name, pa.string()) for name in ("kind", "claim", "verdict", "quote")])
)
DIMENSIONS = pa.list_(pa.struct([("name", pa.string()), ("why", pa.string()), ("values", TEXTS)]))


@dataclass(frozen=True)
class Check:
    """A bound that each row must keep: `column op value`."""

    column: str
    op: Literal[">=", "<=", ">"]
    value: float

    @property
    def name(self) -> str:
        """The name of the Delta constraint."""
        word = {">=": "min", "<=": "max", ">": "above"}[self.op]
        return f"{self.column}_{word}_{self.value:g}".replace(".", "_").replace("-", "minus_")

    @property
    def sql(self) -> str:
        """The Delta constraint."""
        return f"{self.column} {self.op} {self.value:g}"

    def broken(self, rows: pa.Table | pa.RecordBatch) -> int:
        """Count the rows that break the bound; nulls do not."""
        compare = {">=": pc.less, "<=": pc.greater, ">": pc.less_equal}[self.op]
        return int(pc.sum(compare(rows[self.column], self.value)).as_py() or 0)


@dataclass(frozen=True)
class Contract:
    """What a table promises its readers."""

    name: str
    about: str
    key: tuple[str, ...]
    schema: pa.Schema
    by_ds: bool = True
    checks: tuple[Check, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    change_feed: bool = False
    version: int = 1

    @property
    def stored(self) -> pa.Schema:
        """The columns inside the files: all but the partition column."""
        return pa.schema([column for column in self.schema if column.name != "ds"])

    def conform(self, rows: pa.Table) -> pa.Table:
        """Order and cast the columns as the contract names them.

        Raises:
            InputError: a column is missing, unknown or of another type.
        """
        missing = [name for name in self.stored.names if name not in rows.schema.names]
        unknown = [name for name in rows.schema.names if name not in self.schema.names]
        if missing or unknown:
            raise InputError(f"table {self.name}: missing columns {missing}, unknown {unknown}")
        try:
            return rows.select(self.stored.names).cast(self.stored)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InputError(f"table {self.name}: {error}") from error

    def broken_rules(self, rows: pa.Table | pa.RecordBatch) -> list[str]:
        """Name every rule of a single row that these rows break; keys are checked by `Lake`."""
        found = []
        for column in self.stored:
            nulls = rows[column.name].null_count
            if not column.nullable and nulls:
                found.append(f"{column.name} is null in {nulls} rows")
            if pa.types.is_floating(column.type):
                odd = pc.sum(pc.invert(pc.is_finite(rows[column.name]))).as_py() or 0
                if odd:
                    found.append(f"{column.name} is not finite in {odd} rows")
        for check in self.checks:
            broken = check.broken(rows)
            if broken:
                found.append(f"{check.sql} is broken in {broken} rows")
        return found


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, str]) -> pa.Schema:
    """Columns are required unless a third word `optional` follows the type."""
    return pa.schema([pa.field(c[0], c[1], nullable=len(c) == 3) for c in columns])


DS = ("ds", pa.string())
TEXT, INT, LONG, REAL = pa.string(), pa.int32(), pa.int64(), pa.float64()

EVENTS = Contract(
    "events",
    "Behaviour as delivered, one row per event, each in the partition of its own UTC date.",
    ("user_id", "item_id", "action", "ts"),
    _schema(
        DS,
        ("user_id", TEXT),
        ("item_id", TEXT),
        ("action", TEXT),
        ("ts", UTC_TIMESTAMP),
        ("position", LONG, "optional"),
        ("session_id", TEXT, "optional"),
        ("surface", TEXT, "optional"),
        ("query", TEXT, "optional"),
        ("value", REAL, "optional"),
        ("source_file", TEXT, "optional"),
        ("ingested_ds", TEXT),
    ),
    notes={
        "position": "the source's own order among equal timestamps",
        "ingested_ds": "the partition whose delivery brought the row; later than ds: a late row",
    },
)

REJECTED = _schema(
    DS,
    ("source_file", TEXT),
    ("source_row", LONG),
    ("reason", TEXT),
    ("payload", TEXT, "optional"),
)
REJECTED_NOTES = {
    "source_row": "1-based position of the record in its file, a header not counted",
    "payload": "the record as read, JSON",
}
EVENTS_REJECTED = Contract(
    "events_rejected", "Event rows refused, with the reason.", (), REJECTED, notes=REJECTED_NOTES
)
ITEMS_REJECTED = Contract(
    "items_rejected", "Item rows refused, with the reason.", (), REJECTED, notes=REJECTED_NOTES
)

ITEMS = Contract(
    "items",
    "The catalogue as delivered on a date.",
    ("item_id",),
    _schema(
        DS,
        ("item_id", TEXT),
        ("title", TEXT),
        ("description", TEXT, "optional"),
        ("category", TEXTS, "optional"),
        ("brand", TEXT, "optional"),
        ("price", REAL, "optional"),
        ("available", pa.bool_()),
        ("attributes", MAP, "optional"),
        ("content_hash", TEXT),
    ),
    notes={
        "category": "root first",
        "content_hash": "of title, description, category, brand and attributes",
    },
)

ITEM_INDEX = Contract(
    "item_index",
    "Dense integer per item, append-only: an index never changes and is never reused.",
    ("item_id",),
    _schema(("item_id", TEXT), ("item_idx", INT), ("first_seen_ds", TEXT)),
    by_ds=False,
    checks=(Check("item_idx", ">=", 1),),
)

SEQUENCES = Contract(
    "sequences",
    "Each user's latest behaviour as of the end of ds, oldest first.",
    ("user_id",),
    _schema(
        DS,
        ("user_id", TEXT),
        ("item_idx", pa.list_(INT)),
        ("action", TEXTS),
        ("ts", pa.list_(UTC_TIMESTAMP)),
        ("length", INT),
        ("last_ts", UTC_TIMESTAMP),
    ),
    checks=(Check("length", ">=", 1),),
    notes={"item_idx": "ordered by ts, then the source's position, then item_id"},
)

ITEM_GRAPH = Contract(
    "item_graph",
    "Top neighbours per item as of ds: transition counts and swing similarity.",
    ("item_idx", "neighbour_idx", "kind"),
    _schema(
        DS,
        ("item_idx", INT),
        ("neighbour_idx", INT),
        ("kind", TEXT),
        ("weight", REAL),
        ("rank", INT),
    ),
    checks=(Check("rank", ">=", 1), Check("weight", ">", 0)),
)

KNOWLEDGE_KEY = ("item_id", "content_hash", "prompt_version", "model")
KEY_COLUMNS = tuple((name, TEXT) for name in KNOWLEDGE_KEY)
SPENT = (("tokens_in", LONG), ("tokens_out", LONG), ("cost_usd", REAL))

ITEM_KNOWLEDGE = Contract(
    "item_knowledge",
    "What is known of an item, once per text, prompt and model.",
    KNOWLEDGE_KEY,
    _schema(
        *KEY_COLUMNS,
        ("knowledge", KNOWLEDGE),
        ("summary", TEXT),
        *SPENT,
        ("created_ds", TEXT),
        ("status", TEXT),
        ("claims", CLAIMS, "optional"),
    ),
    by_ds=False,
    notes={
        "model": "offline-extraction: read from the item's own text, without a model",
        "status": "extracted (offline), reasoned (every step passed) or recorded (replayed text)",
        "summary": "at most 60 words",
        "claims": "what was claimed of the item; a supported claim's quote stands in its text",
    },
    version=2,
)

ITEM_KNOWLEDGE_FAILED = Contract(
    "item_knowledge_failed",
    "Items of which no usable knowledge was got, with the last answer; not asked about again "
    "until their text, the prompts or the model change.",
    KNOWLEDGE_KEY,
    _schema(
        DS,
        *KEY_COLUMNS,
        ("reason", TEXT),
        ("attempts", LONG),
        ("last_answer", TEXT, "optional"),
        *SPENT,
    ),
    checks=(Check("attempts", ">=", 1),),
    notes={
        "reason": "the step and what was wrong; `service:` where the endpoint never answered",
        "last_answer": "its first 4,000 characters",
        "attempts": "requests that the failing step made",
    },
)

CATEGORY_ONTOLOGY = Contract(
    "category_ontology",
    "Which dimensions matter in a leaf category, once per prompt and model.",
    ("category", "prompt_version", "model"),
    _schema(
        ("category", TEXT),
        ("prompt_version", TEXT),
        ("model", TEXT),
        ("dimensions", DIMENSIONS),
        *SPENT,
        ("created_ds", TEXT),
    ),
    by_ds=False,
    notes={"category": "the path, root first, joined by ` > `"},
)

LLM_ANSWERS = Contract(
    "llm_answers",
    "Every answer that was paid for, by what was asked, so that none is paid for again.",
    ("request_hash",),
    _schema(
        ("request_hash", TEXT),
        ("step", TEXT),
        ("subject", TEXT),
        ("prompt_version", TEXT),
        ("model", TEXT),
        ("answer", TEXT),
        *SPENT,
        ("created_ds", TEXT),
    ),
    by_ds=False,
    notes={
        "request_hash": "of model, messages, answer schema and sampling settings",
        "subject": "the item id, the category's path, or `user:` and the user id",
        "prompt_version": "the step's own",
        "answer": "as received, its first 65,536 characters; valid or not",
    },
)

USER_INTERESTS = Contract(
    "user_interests",
    "What each person is interested in as of ds, each interest borne out by their history.",
    ("user_id", "interest"),
    _schema(
        DS,
        ("user_id", TEXT),
        ("interest", TEXT),
        ("weight", REAL),
        ("evidence", TEXTS),
        ("tags", TEXTS),
        ("prompt_version", TEXT),
        ("model", TEXT),
    ),
    checks=(Check("weight", ">", 0), Check("weight", "<=", 1)),
    notes={
        "weight": "share of the person's reliable events that its evidence holds",
        "evidence": "item ids of the person's own history, the latest first; never empty",
        "model": "offline-extraction: categories and brands, without a model",
    },
)

USER_INTERESTS_FAILED = Contract(
    "user_interests_failed",
    "People of whom no usable interest was got, with the last answer.",
    ("user_id",),
    _schema(
        DS,
        ("user_id", TEXT),
        ("prompt_version", TEXT),
        ("model", TEXT),
        ("reason", TEXT),
        ("attempts", LONG),
        ("last_answer", TEXT, "optional"),
        *SPENT,
    ),
    checks=(Check("attempts", ">=", 1),),
    notes={
        "reason": "what was wrong; `service:` where the endpoint never answered",
        "last_answer": "its first 4,000 characters",
    },
)

ITEM_VECTORS = Contract(
    "item_vectors",
    "What each item's text says as of ds, as a vector of unit length.",
    ("item_idx",),
    _schema(
        DS,
        ("item_idx", INT),
        ("vector", pa.list_(pa.float32())),
        ("encoder", TEXT),
        ("text_hash", TEXT, "optional"),
    ),
    checks=(Check("item_idx", ">=", 1),),
    notes={
        "vector": "of equal width within a partition",
        "encoder": "model and version, and the projection where there is one; vectors of different "
        "encoders cannot be compared; hashed-...: made of words, without a model",
        "text_hash": "of the text that was encoded",
    },
)

VECTOR_FITS = Contract(
    "vector_fits",
    "What was fitted on item vectors once and serves every night since; append-only.",
    ("version",),
    _schema(
        ("version", TEXT),
        ("kind", TEXT),
        ("config", TEXT),
        ("fitted_ds", TEXT),
        ("num_items", LONG),
        ("figures", pa.map_(TEXT, REAL)),
        ("shapes", TEXT),
        ("values", pa.list_(pa.float32())),
    ),
    by_ds=False,
    notes={
        "version": "the kind and a digest of config and values",
        "kind": "pca, kmeans or rqvae",
        "config": "what it was fitted for, JSON: the encoder's name and the settings",
        "fitted_ds": "a night uses the newest one fitted by then, or else the oldest",
        "figures": "how good it was on what it was fitted on",
        "shapes": "name and shape of each array in `values`, JSON",
        "values": "all arrays, one after another, row by row",
    },
)

SEMANTIC_IDS = Contract(
    "semantic_ids",
    "Each item's codes as of ds; items that begin alike say alike things.",
    ("item_idx",),
    _schema(
        DS,
        ("item_idx", INT),
        ("codes", pa.list_(INT)),
        ("codebook_version", TEXT),
    ),
    checks=(Check("item_idx", ">=", 1),),
    notes={
        "codes": "coarse first; the last one only tells items apart that share all others, so no "
        "two items of a partition have the same codes",
        "codebook_version": "its row in `vector_fits`; codes of different versions mean nothing to "
        "each other",
    },
)

SEMANTIC_SLOTS = Contract(
    "semantic_slots",
    "The last code of each item, by the codes before it; append-only: it never changes and is "
    "never reused.",
    ("codebook_version", "cell", "item_idx"),
    _schema(("codebook_version", TEXT), ("cell", TEXT), ("item_idx", INT), ("slot", INT)),
    by_ds=False,
    checks=(Check("slot", ">=", 0),),
    notes={"cell": "the codes before the last, joined by -"},
)

RECOMMENDATIONS = Contract(
    "recommendations",
    "The published list of each user for the day after ds.",
    ("user_id", "rank"),
    _schema(
        DS,
        ("user_id", TEXT),
        ("rank", INT),
        ("item_id", TEXT),
        ("score", REAL),
        ("reason", TEXT),
        ("source", TEXT),
        ("model_name", TEXT),
        ("model_version", TEXT),
        ("generated_at", UTC_TIMESTAMP),
    ),
    checks=(Check("rank", ">=", 1),),
    notes={
        "source": "ranker, or popularity where the list is the marked fallback",
        "generated_at": "the instant that ds closes, so that a rebuild is identical",
        "score": "never rises with rank; comparable within a user's list only",
    },
    change_feed=True,
)

RANKER_METRICS = Contract(
    "ranker_metrics",
    "Metrics of each evaluated version with 95 % intervals over users.",
    ("model_version", "split", "slice", "metric"),
    _schema(
        DS,
        ("model_version", TEXT),
        ("split", TEXT),
        ("slice", TEXT),
        ("metric", TEXT),
        ("value", REAL),
        ("ci_low", REAL, "optional"),
        ("ci_high", REAL, "optional"),
        ("num_users", LONG),
    ),
)

MONITORING = Contract(
    "monitoring",
    "What was checked before publishing, against the previous partition.",
    ("subject", "check"),
    _schema(
        DS,
        ("subject", TEXT),
        ("check", TEXT),
        ("value", REAL, "optional"),
        ("baseline", REAL, "optional"),
        ("threshold", REAL, "optional"),
        ("status", TEXT),
    ),
)

PIPELINE_RUNS = Contract(
    "pipeline_runs",
    "One row per finished step: what it read, what it wrote, how long it took.",
    ("run_id", "step"),
    _schema(
        ("run_id", TEXT),
        ("step", TEXT),
        ("partition", TEXT, "optional"),
        ("status", TEXT),
        ("started_at", UTC_TIMESTAMP),
        ("seconds", REAL),
        ("input_versions", pa.map_(TEXT, LONG)),
        ("output_versions", pa.map_(TEXT, LONG)),
        ("rows", LONG),
        ("code_version", TEXT),
    ),
    by_ds=False,
)

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
        "Generated from `pipelines/tables.py` by `python -m pipelines.tables`; do not edit.",
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


if __name__ == "__main__":
    print(data_dictionary(), end="")
