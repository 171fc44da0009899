"""Tables of text vectors, semantic ids and what both are fitted by."""

import pyarrow as pa

from pipelines.tables.contract import DS, INT, LONG, REAL, TEXT, Check, Contract, columns

ITEM_VECTORS = Contract(
    "item_vectors",
    "What each item's text says as of ds, as a vector of unit length.",
    ("item_idx",),
    columns(
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
    columns(
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
    columns(
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
    columns(("codebook_version", TEXT), ("cell", TEXT), ("item_idx", INT), ("slot", INT)),
    by_ds=False,
    checks=(Check("slot", ">=", 0),),
    notes={"cell": "the codes before the last, joined by -"},
)
