"""Put the previous champion back."""

from pipelines.io.tracking import MODEL, Registry
from pipelines.step import Context, Result


def run(context: Context) -> Result:
    """Move the alias `champion` to the version before it.

    Raises:
        InputError: there is no champion, or none before it.
    """
    registry = Registry(context.settings)
    if context.dry_run:
        return {"model": MODEL, "champion": registry.resolve("champion"), "rolled_back": False}
    before, now = registry.rollback()
    return {"model": MODEL, "champion": now, "rolled_back_from": before}
