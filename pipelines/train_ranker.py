"""Train a recipe on a night's sequences, judge it, and register it as challenger."""

import hashlib
import json
import platform
from dataclasses import asdict
from typing import Any

import structlog
import torch

from models.base import Ranker
from models.batch import steps_per_epoch
from models.evaluation import Split
from models.fitting import EpochResult
from models.registry import build, configure, to_spec
from pipelines.catalogue_index import fingerprint
from pipelines.errors import InputError, input_errors
from pipelines.histories import action_names, read_histories, split_histories, time_cuts
from pipelines.io.ray_train import train
from pipelines.io.run_files import forget, store_start
from pipelines.io.tracking import MODEL, Card, Registry
from pipelines.io.training_job import Job, Trained
from pipelines.item_index import catalogue_size
from pipelines.judgement import Judgement, judge_for, judged_versions, publish_metrics
from pipelines.recipes import Recipe, recipe_named
from pipelines.settings.groups import RaySettings
from pipelines.step import Context, Result
from pipelines.text_vectors import TABLE as VECTORS
from pipelines.text_vectors import teach_text

log = structlog.get_logger()


def run(context: Context, recipe_name: str | None, overrides: dict[str, str]) -> Result:
    """Train, judge and register; the same inputs and recipe register once.

    Raises:
        InputError: unknown recipe or setting, missing sequences, or a loss that diverged.
    """
    settings = context.settings
    recipe = recipe_named(recipe_name or settings.train.recipe, overrides)
    seen = "allowed" if settings.recommend.allow_repeats else "excluded"
    seed = recipe.fit.seed if "seed" in overrides else settings.train.seed
    recipe = recipe.model_copy(
        update={"fit": recipe.fit.model_copy(update={"eval_seen": seen, "seed": seed})}
    )
    _require_parts(recipe, settings.ray)
    actions = action_names(context.lake, context.ds)
    store = read_histories(context.lake, context.ds, actions)
    cuts = time_cuts(store, settings.train)
    split = split_histories(store, settings.train, cuts)
    ranker = _new_ranker(context, recipe, split)
    about = {
        "recipe": recipe.name,
        "ranker": recipe.ranker,
        "users": len(store),
        "events": store.num_events,
        "items": ranker.num_items,
        "parameters": ranker.num_parameters,
        "training_events": split.train.num_events,
        "test_users": len(split.test),
    }
    log.info("training", **about)
    if context.dry_run:
        return about
    digest = _digest(context, recipe, cuts, ranker)
    registry = Registry(settings)
    known = registry.with_tag("digest", digest)
    if known is not None:
        registry.challenge(known)
        if known not in judged_versions(context):  # killed between registering and publishing
            ranker, _ = registry.load(known)
            publish_metrics(context, {known: judge_for(context, ranker, split)})
        return about | {"model": MODEL, "version": known, "registered": "already"}
    trained = _train(context, recipe, ranker, split, cuts, actions, digest)
    judgement = judge_for(context, ranker.eval(), split)
    card = _card(context, recipe, ranker, cuts, actions, trained, judgement)
    version = registry.register(card, dict(ranker.state_dict()), _tags(ranker, digest))
    publish_metrics(context, {version: judgement})
    forget(_run_name(context, recipe, digest), settings)
    headline = judgement.interval("ndcg@10", "all")
    if diagnostics := ranker.diagnostics():
        about["diagnostics"] = diagnostics
    return about | {
        "model": MODEL,
        "version": version,
        "registered": "challenger",
        "epochs": len(trained.curve),
        "ndcg@10": [round(value, 5) for value in headline],
    }


def _new_ranker(context: Context, recipe: Recipe, split: Split) -> Ranker:
    torch.manual_seed(recipe.fit.seed)
    with input_errors(f"{recipe.ranker}: these settings do not go together"):
        ranker = build(recipe.ranker, catalogue_size(context.lake), **recipe.ranker_settings)
    with input_errors(f"sequences of {context.ds}"):
        ranker.fit_statistics(split.train)
    teach_text(context.lake, context.ds, ranker)
    return ranker


def _digest(context: Context, recipe: Recipe, cuts: tuple[int, int], ranker: Ranker) -> str:
    """Name what decides the weights: code, inputs, recipe, cuts and the index."""
    parts = {
        "code": context.run.code_version,
        "sequences": context.lake.content("sequences", context.ds),
        "recipe": recipe.model_dump(mode="json"),
        "cuts": cuts,
        "index": fingerprint(context.lake, None),
        "workers": _layout(context.settings.ray),
    }
    if ranker.takes_text:
        used = context.run.inputs
        parts["vectors"] = {key: used[key] for key in used if key.startswith(f"{VECTORS}/")}
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def _tags(ranker: Ranker, digest: str) -> dict[str, str]:
    encoder = ranker.text_encoder
    return {"digest": digest} | ({} if encoder is None else {"text_encoder": encoder})


def _require_parts(recipe: Recipe, ray: RaySettings) -> None:
    text = configure(recipe.ranker, **recipe.ranker_settings).model_dump().get("text_vectors")
    if text is not None and ray.num_workers > 1 and ray.shard_items:
        raise InputError(
            "text_vectors needs the whole item table in each worker: set "
            "RECKONER_RAY__SHARD_ITEMS=false, or text_vectors=off"
        )
    if recipe.fit.table_optimiser == "rows" and ray.num_workers > 1 and not ray.shard_items:
        raise InputError(
            f"table_optimiser=rows cannot train on {ray.num_workers} workers that each hold the "
            "whole item table: set RECKONER_RAY__SHARD_ITEMS=true, or table_optimiser=adamw"
        )


def _layout(ray: RaySettings) -> list[Any]:
    """Say how weights lie over workers: sums of floats depend on it."""
    return [ray.num_workers, *([ray.shard_items, ray.parallel] if ray.num_workers > 1 else [])]


def _run_name(context: Context, recipe: Recipe, digest: str) -> str:
    return f"{context.ds}-{recipe.name}-{digest}"


def _train(
    context: Context,
    recipe: Recipe,
    ranker: Ranker,
    split: Split,
    cuts: tuple[int, int],
    actions: tuple[str, ...],
    digest: str,
) -> Trained:
    """Fit by gradients on Ray; a heuristic is complete with its statistics."""
    if not ranker.is_trainable:
        return Trained([], "cpu")
    settings = context.settings
    name = _run_name(context, recipe, digest)
    world = max(settings.ray.num_workers, 1)
    version = context.lake.version("sequences")
    assert version is not None
    plan = recipe.fit.batch_plan(ranker.config.max_length)
    job = Job(
        name=name,
        lake_uri=context.lake.uri,
        storage_options=context.lake.storage_options,
        sequences_version=version,
        ds=context.ds,
        actions=actions,
        spec=to_spec(ranker),
        fit=recipe.fit.model_dump(mode="json"),
        cuts=cuts,
        num_batches=steps_per_epoch(split.train, plan, world),
        start=store_start(name, settings, ranker),
        checkpoint_every=settings.train.checkpoint_every_steps,
        train=settings.train.model_dump(),
        threads=max(int(settings.ray.cpus_per_worker), 1),
        shard_items=settings.ray.shard_items,
        parallel=settings.ray.parallel,
    )
    return train(job, settings, ranker)


def _card(
    context: Context,
    recipe: Recipe,
    ranker: Ranker,
    cuts: tuple[int, int],
    actions: tuple[str, ...],
    trained: Trained,
    judgement: Judgement,
) -> Card:
    index_version = context.lake.version("item_index")
    assert index_version is not None
    return Card(
        spec=to_spec(ranker),
        recipe=recipe.model_dump(mode="json"),
        partition=context.ds,
        actions=actions,
        index_version=index_version,
        index_fingerprint=fingerprint(context.lake, ranker.num_items),
        input_versions=dict(context.run.input_versions),
        inputs=dict(context.run.inputs),
        cuts=cuts,
        metrics=judgement.table(),
        curve=[_curve_row(point) for point in trained.curve],
        environment=_environment(trained.device),
        code_version=context.run.code_version,
    )


def _curve_row(point: EpochResult) -> dict[str, float]:
    flat = asdict(point)
    losses: dict[str, float] = flat.pop("losses")
    row = {f"loss/{name}": value for name, value in losses.items()}
    row |= {"epoch": point.epoch, "step": point.step, "cpu_seconds": point.cpu_seconds}
    if point.validation is not None:
        row["validation/ndcg_at_10"] = point.validation
    return row


def _environment(device: str) -> dict[str, str]:
    from importlib.metadata import version

    packages: dict[str, Any] = {name: version(name) for name in ("torch", "ray", "numpy", "mlflow")}
    return {**packages, "python": platform.python_version(), "device": device}
