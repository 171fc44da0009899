"""Tables of what a model reasons about items and people, and of its answers."""

import pyarrow as pa

from pipelines.tables.contract import DS, LONG, MAP, REAL, TEXT, TEXTS, Check, Contract, columns

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

KNOWLEDGE_KEY = ("item_id", "content_hash", "prompt_version", "model")
KEY_COLUMNS = tuple((name, TEXT) for name in KNOWLEDGE_KEY)
SPENT = (("tokens_in", LONG), ("tokens_out", LONG), ("cost_usd", REAL))

ITEM_KNOWLEDGE = Contract(
    "item_knowledge",
    "What is known of an item, once per text, prompt and model.",
    KNOWLEDGE_KEY,
    columns(
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
    columns(
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
    columns(
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
    columns(
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
    columns(
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
    columns(
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
