"""Measure item vectors and semantic ids on a real catalogue.

Usage: python docs/benchmarks/item_vectors.py DATASET_DIR [--encoder minilm] [--out FILE.json]

DATASET_DIR holds `items.parquet` with item_id, title, description and brand. Nine items in ten are
delivered for a first night, the rest for a second, in an order that a fixed seed draws. Each night
is built with both methods of coding, and the second one twice.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from docs.benchmarks.item_knowledge import catalogue
from pipelines import build_item_vectors, build_semantic_ids
from pipelines.io.lake import Lake
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings
from pipelines.settings.groups import SemanticIdSettings, VectorSettings
from pipelines.step import Context

NIGHTS = ("2026-03-01", "2026-03-02")
NEW_SHARE = 0.1


def measure(folder: Path, encoder: Any) -> dict[str, Any]:
    """Build both nights with both methods."""
    items = catalogue(folder, None)
    order = np.random.default_rng(0).permutation(items.num_rows)
    first = items.num_rows - round(NEW_SHARE * items.num_rows)
    vectors = VectorSettings(encoder=encoder)
    with tempfile.TemporaryDirectory() as home:
        Lake(home, Run.start("measure", None)).publish(
            "items", NIGHTS[0], items.take(order[:first])
        )
        Lake(home, Run.start("measure", None)).publish(
            "items", NIGHTS[1], items.take(order[first:])
        )

        def step(module: Any, night: str, ids: SemanticIdSettings, **more: Any) -> dict[str, Any]:
            run = Run.start("measure", night)
            settings = Settings(vectors=vectors, semantic_ids=ids)
            began = time.monotonic()
            context = Context(settings, Lake(home, run), Partition.parse(night))
            told: dict[str, Any] = module.run(context, **more)
            return told | {"seconds": round(time.monotonic() - began, 2)}

        plain = SemanticIdSettings()
        found: dict[str, Any] = {"items": items.num_rows, "first": first}
        nights = [NIGHTS[0], NIGHTS[1], NIGHTS[1]]
        found["vectors"] = [step(build_item_vectors, night, plain) for night in nights]
        for method in ("kmeans", "rqvae"):
            ids = SemanticIdSettings(method=method)
            found[method] = [step(build_semantic_ids, night, ids) for night in nights]
    return found


def main() -> None:
    """Read the arguments, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--encoder", default="minilm", choices=["minilm", "hashed"])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text = json.dumps(measure(asked.dataset, asked.encoder), indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
