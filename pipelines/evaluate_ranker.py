"""Judge one registered version on a night's test users."""

from typing import Any

from pipelines.catalogue_index import require_same_index
from pipelines.errors import InputError
from pipelines.histories import read_histories, split_histories
from pipelines.io.tracking import MODEL, Registry
from pipelines.judgement import deciding_users, foreknowledge, judge, publish_metrics
from pipelines.step import Context, Result
from pipelines.text_vectors import meet_newcomers


def run(context: Context, reference: str) -> Result:
    """Evaluate `NAME@ALIAS_OR_VERSION` and write its rows of `ranker_metrics`.

    Raises:
        InputError: the reference is malformed or unknown, or was trained on a later night, on
            another item index or with another text encoder.
    """
    name, _, wanted = reference.partition("@")
    if name != MODEL or not wanted:
        raise InputError(
            f"--model {reference!r}: write {MODEL}@ALIAS_OR_VERSION, such as {MODEL}@3"
        )
    registry = Registry(context.settings)
    version = registry.resolve(wanted)
    ranker, card = registry.load(version)
    named = f"{MODEL} version {version}"
    if late := foreknowledge(card.partition, named, context.ds):
        raise InputError(late)
    require_same_index(context.lake, ranker.num_items, card.index_fingerprint, named)
    meet_newcomers(context.lake, context.ds, ranker, named)
    store = read_histories(context.lake, context.ds, card.actions)
    split = split_histories(store, context.settings.train)
    users = deciding_users(context, split)
    if not len(users):
        raise InputError(f"partition {context.ds} has no test user: nothing can be evaluated")
    judgement = judge(ranker, users, split, context.settings.recommend.allow_repeats)
    publish_metrics(context, {version: judgement})
    return {
        "model": MODEL,
        "version": version,
        "ranker": card.ranker_name,
        "test_users": len(users),
        "metrics": judgement.table(),
    }


def render_evaluation(result: dict[str, Any]) -> str:
    """Lay an evaluation out as text: a line per slice and metric, with its 95 % interval."""
    lines = [
        f"{result['model']} version {result['version']} ({result['ranker']}) on "
        f"{result['test_users']:,} test users, 95 % intervals over users",
    ]
    for name, metrics in result["metrics"].items():
        lines.append("")
        for metric, (value, low, high) in metrics.items():
            interval = "" if low is None else f"  [{low:.4f}, {high:.4f}]"
            lines.append(f"{name:<8}{metric:<14}{value:>8.4f}{interval}")
    return "\n".join(lines)
