"""The night's text vectors, for rankers that take them.

Shape legend: X items, V numbers of a vector.
"""

import numpy as np
import pyarrow.compute as pc
import structlog

from models.base import Ranker
from models.text_vectors import TextVectors
from pipelines.errors import InputError, input_errors
from pipelines.io.lake import Lake
from pipelines.item_index import catalogue_size
from pipelines.tables.vectors import ITEM_VECTORS
from pipelines.vector_column import matrix

log = structlog.get_logger()

TABLE = ITEM_VECTORS.name


def vectors_as_of(lake: Lake, ds: str) -> TextVectors | None:
    """Read the newest partition of `item_vectors` up to a date, recorded; None where it has none.

    Raises:
        InputError: the partition mixes encoders or widths.
    """
    days = [day for day in lake.partitions(TABLE) if day <= ds]
    if not days:
        return None
    if days[-1] != ds:
        log.warning("the night has no text vectors of its own", partition=ds, used=days[-1])
    rows = lake.read(TABLE, days[-1], ["item_idx", "vector", "encoder"]).sort_by("item_idx")
    if not rows.num_rows:
        return None
    encoders = pc.unique(rows["encoder"]).to_pylist()
    if len(encoders) != 1:
        raise InputError(
            f"{TABLE} of {days[-1]} holds vectors of {len(encoders)} encoders ({encoders}): build "
            "the partition again"
        )
    widths = pc.unique(pc.list_value_length(rows["vector"])).to_pylist()
    if len(widths) != 1:
        raise InputError(f"{TABLE} of {days[-1]} holds vectors of different widths: {widths}")
    ids = rows["item_idx"].to_numpy().astype(np.int64)
    return TextVectors(encoders[0], ids, matrix(rows["vector"]).copy())


def teach_text(lake: Lake, ds: str, ranker: Ranker) -> None:
    """Give a ranker that is about to train the text vectors as of the night.

    Raises:
        InputError: there are none, or not of the encoder that its settings name.
    """
    if not ranker.takes_text:
        return
    vectors = vectors_as_of(lake, ds)
    if vectors is None:
        raise InputError(
            f"text_vectors is on and table {TABLE} has no vectors as of {ds}: run reckoner "
            f"build-item-knowledge --partition {ds}, or train with text_vectors=off"
        )
    with input_errors(f"{TABLE} as of {ds}"):
        ranker.learn_text(vectors)


def newcomers(lake: Lake, ds: str, ranker: Ranker, name: str) -> TextVectors | None:
    """The night's vectors of the items that a trained ranker can meet by their text alone.

    None where the ranker takes no text or scores by more than vectors, or where the lake has no
    vectors: it then goes on with the items that it knows.

    Raises:
        InputError: the vectors are of another encoder than those that it was trained with.
    """
    if not ranker.takes_text or not ranker.scores_by_vector:
        return None
    vectors = vectors_as_of(lake, ds)
    if vectors is None:
        log.warning("no text vectors: items newer than the model are not recommended", model=name)
        return None
    known = ranker.known_N1.cpu().numpy()
    inside = vectors.ids_X < len(known)
    new = ~(inside & known[np.where(inside, vectors.ids_X, 0)])
    fresh = TextVectors(vectors.encoder, vectors.ids_X[new], vectors.vectors_XV[new])
    with input_errors(f"{name}, {TABLE} as of {ds}"):
        ranker.require_encoder(fresh)
    return fresh


def meet_newcomers(lake: Lake, ds: str, ranker: Ranker, name: str) -> None:
    """Let a trained ranker score what is newer than it, in this process.

    Raises:
        InputError: as `newcomers`.
    """
    fresh = newcomers(lake, ds, ranker, name)
    if fresh is not None:
        ranker.welcome(fresh, catalogue_size(lake))
