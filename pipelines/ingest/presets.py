"""Mappings of the common public layouts, each under one name."""

import difflib
from dataclasses import dataclass
from typing import Any

from pipelines.errors import InputError
from pipelines.ingest.mapping import Mapping


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset is published; a preset tries its layouts in order."""

    name: str
    mapping: Mapping


def _layout(name: str, **tables: Any) -> Layout:
    return Layout(name, Mapping.model_validate(tables))


def _headerless(*columns: str, delimiter: str = ",", **more: Any) -> dict[str, Any]:
    return {"header": False, "columns": columns, "delimiter": delimiter, **more}


def _optional(name: str, **more: Any) -> dict[str, Any]:
    return {"column": name, "optional": True, **more}


CANONICAL = (
    _layout(
        "contract columns",
        events={
            "user_id": "user_id",
            "item_id": "item_id",
            "action": "action",
            "ts": "ts",
            **{name: _optional(name) for name in ("session_id", "surface", "query")},
            **{name: _optional(name) for name in ("value", "position")},
        },
        items={
            "item_id": "item_id",
            "title": "title",
            **{name: _optional(name) for name in ("description", "brand", "price")},
            **{name: _optional(name) for name in ("available", "attributes")},
            "category": _optional("category", separator=" > "),
        },
    ),
)

RATING = {
    "user_id": "userId",
    "item_id": "movieId",
    "action": {"constant": "rate"},
    "ts": {"column": "timestamp", "format": "seconds"},
    "value": "rating",
}
RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
FILM_COLUMNS = ("movieId", "title", "genres")
FILM = {
    "item_id": "movieId",
    "title": "title",
    "category": {"column": "genres", "separator": "|"},
}
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
MOVIELENS = (
    _layout(
        "ratings.csv (latest, 20M, 25M, 32M)",
        events={"files": ["ratings.csv"], **RATING},
        items={"files": ["movies.csv"], **FILM},
    ),
    _layout(
        "ratings.dat (1M, 10M)",
        events={
            "files": ["ratings.dat"],
            "csv": _headerless(*RATING_COLUMNS, delimiter="::", quote=None),
            **RATING,
        },
        items={
            "files": ["movies.dat"],
            "csv": _headerless(*FILM_COLUMNS, delimiter="::", quote=None, encoding="latin-1"),
            **FILM,
        },
    ),
    _layout(
        "u.data (100K)",
        events={
            "files": ["u.data"],
            "csv": _headerless(*RATING_COLUMNS, delimiter="\t", quote=None),
            **RATING,
        },
        items={
            "files": ["u.item"],
            "csv": _headerless(
                *("movieId", "title", "released", "video", "imdb", *GENRES),
                delimiter="|",
                quote=None,
                encoding="latin-1",
            ),
            "item_id": "movieId",
            "title": "title",
            "category": {"flags": GENRES},
            "attributes": {"columns": ["released"]},
        },
    ),
)

# Ratings-only files and 2014's reviews know the day alone: the file's own order breaks ties.
REVIEW = {"action": {"constant": "review"}, "position": {"row_number": True}}
NO_TITLE = {"skip": "no title", "column": "title", "empty": True}
REVIEW_2014 = {
    "user_id": "reviewerID",
    "item_id": "asin",
    "ts": {"column": "unixReviewTime", "format": "seconds"},
    "value": "overall",
    **REVIEW,
}
RATING_ONLY = {
    "user_id": "user",
    "item_id": "item",
    "ts": {"column": "timestamp", "format": "seconds"},
    "value": "rating",
    **REVIEW,
}
PRODUCT = {
    "item_id": "asin",
    "title": "title",
    "description": _optional("description", join=" "),
    "brand": _optional("brand"),
    "price": _optional("price", lenient=True),
    "rules": [NO_TITLE],
}
AMAZON = (
    _layout(
        "2023",
        events={
            "user_id": "user_id",
            "item_id": "parent_asin",
            "ts": {"column": "timestamp", "format": "milliseconds"},
            "value": "rating",
            **REVIEW,
        },
        items={
            "item_id": "parent_asin",
            "title": "title",
            "description": _optional("description", join=" "),
            "category": _optional("categories"),
            "brand": _optional("store"),
            "price": _optional("price", lenient=True),
            "attributes": _optional("details"),
            "rules": [NO_TITLE],
        },
    ),
    _layout(
        "2018 reviews and metadata",
        events=REVIEW_2014,
        items={**PRODUCT, "category": "category"},
    ),
    _layout("2014 metadata", items={**PRODUCT, "category": "categories"}),
    _layout(
        "2014 ratings only",
        events={
            "files": ["ratings_*.csv"],
            "csv": _headerless("user", "item", "rating", "timestamp"),
            **RATING_ONLY,
        },
    ),
    _layout(
        "2018 ratings only",
        events={
            "files": ["*.csv"],
            "csv": _headerless("item", "user", "rating", "timestamp"),
            **RATING_ONLY,
        },
    ),
)

UNTITLED = {"item_id": "item", "title": {"column": "item", "prefix": "item "}}
TAOBAO_COLUMNS = ("user", "item", "category", "behaviour", "timestamp")
TAOBAO = (
    _layout(
        "Tianchi mobile (named columns)",
        events={
            "user_id": "user_id",
            "item_id": "item_id",
            "action": {
                "column": "behavior_type",
                "names": {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"},
            },
            "ts": {"column": "time", "format": "%Y-%m-%d %H", "timezone": "Asia/Shanghai"},
        },
        items={
            "item_id": "item_id",
            "title": {"column": "item_id", "prefix": "item "},
            "category": "item_category",
        },
    ),
    _layout(
        "UserBehavior.csv",
        events={
            "files": ["*.csv"],
            "csv": _headerless(*TAOBAO_COLUMNS),
            "user_id": "user",
            "item_id": "item",
            "action": {
                "column": "behaviour",
                "names": {"pv": "view", "fav": "favourite", "cart": "cart", "buy": "purchase"},
            },
            "ts": {"column": "timestamp", "format": "seconds"},
        },
        items={
            "files": ["*.csv"],
            "csv": _headerless(*TAOBAO_COLUMNS),
            **UNTITLED,
            "category": "category",
        },
    ),
)

RETAILROCKET = (
    _layout(
        "events.csv",
        events={
            "files": ["events*.csv"],
            "user_id": "visitorid",
            "item_id": "itemid",
            "action": {
                "column": "event",
                "names": {"view": "view", "addtocart": "cart", "transaction": "purchase"},
            },
            "ts": {"column": "timestamp", "format": "milliseconds"},
        },
        items={
            "files": ["events*.csv"],
            "item_id": "itemid",
            "title": {"column": "itemid", "prefix": "item "},
        },
    ),
)


def _online_retail(invoice: str, price: str, customer: str) -> dict[str, Any]:
    code = {"column": "StockCode", "upper": True}
    not_product = {
        "skip": "not a product",
        "column": "StockCode",
        "differs_from": r"^\s*[0-9]{5}[A-Za-z]*\s*$",
    }
    cancelled = {"skip": "cancellation", "column": invoice, "matches": r"^\s*[Cc]"}
    returned = {"skip": "quantity not positive", "column": "Quantity", "at_most": 0}
    free = {"skip": "price zero", "column": price, "equals": 0}
    negative = {"reject": "negative price", "column": price, "below": 0}
    return {
        "events": {
            "user_id": {"column": customer, "integer": True},
            "item_id": code,
            "action": {"constant": "purchase"},
            "ts": "InvoiceDate",
            "value": {"column": "Quantity", "times": price},
            "position": {"row_number": True},
            "merge_within": "minute",
            "rules": [
                negative,
                {"skip": "no customer", "column": customer, "empty": True},
                cancelled,
                not_product,
                returned,
                free,
            ],
        },
        "items": {
            "item_id": code,
            "title": "Description",
            "price": price,
            "repeats": "typical",
            # Stock corrections carry notes ("damaged", "?") where a description should stand.
            "rules": [
                negative,
                cancelled,
                not_product,
                returned,
                free,
                {"skip": "no description", "column": "Description", "empty": True},
            ],
        },
    }


ONLINE_RETAIL = (
    _layout("Online Retail", **_online_retail("InvoiceNo", "UnitPrice", "CustomerID")),
    _layout("Online Retail II", **_online_retail("Invoice", "Price", "Customer ID")),
)

PRESETS: dict[str, tuple[Layout, ...]] = {
    "canonical": CANONICAL,
    "movielens": MOVIELENS,
    "amazon-reviews": AMAZON,
    "taobao": TAOBAO,
    "retailrocket": RETAILROCKET,
    "online-retail": ONLINE_RETAIL,
}


def preset_layouts(name: str) -> tuple[Layout, ...]:
    """Look a preset up.

    Raises:
        InputError: there is none of that name; the nearest is named.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise InputError(
            f"unknown preset {name!r}; did you mean {near!r}? (presets: {', '.join(PRESETS)})"
        )
    return PRESETS[name]
