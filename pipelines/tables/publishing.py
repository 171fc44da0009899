"""Tables of a night: the lists, how rankers did, what was checked, what ran."""

import pyarrow as pa

from pipelines.tables.contract import (
    DS,
    INT,
    LONG,
    REAL,
    TEXT,
    UTC_TIMESTAMP,
    Check,
    Contract,
    columns,
)

RECOMMENDATIONS = Contract(
    "recommendations",
    "The published list of each user for the day after ds.",
    ("user_id", "rank"),
    columns(
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
    columns(
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
    columns(
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
    columns(
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
