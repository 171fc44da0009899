"""State dicts of one worker: of a tensor in parts they hold this worker's part."""

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.base import Ranker


def local_parts(tree: Any) -> Any:
    """Replace every distributed tensor in nested state by this worker's part of it, not copied."""
    if isinstance(tree, DTensor):
        return tree.to_local().detach()
    if isinstance(tree, dict):
        return {key: local_parts(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(local_parts(value) for value in tree)
    return tree


def as_part_of(model: Tensor, value: Any) -> Any:
    """Turn a saved part into the distributed tensor that `model` is an example of."""
    if not isinstance(model, DTensor) or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return DTensor.from_local(
        value,
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )


def load_parts(module: nn.Module, state: dict[str, Any]) -> None:
    """Load what `local_parts` made of a module's state dict."""
    own = module.state_dict()
    module.load_state_dict({name: as_part_of(own[name], part) for name, part in state.items()})


def without_table(ranker: Ranker) -> dict[str, Tensor]:
    """Return a ranker's state but for the item table."""
    table = None if ranker.item_table is None else ranker.item_table.weight
    name = next((name for name, p in ranker.named_parameters() if p is table), None)
    return {key: value for key, value in ranker.state_dict().items() if key != name}


def load_whole(ranker: Ranker, state: dict[str, Tensor]) -> None:
    """Load a whole state, of a tensor in parts by rows this worker's rows alone.

    An item table that the state lacks stays as it is.
    """
    own = ranker.state_dict()
    kept = {name: value for name, value in own.items() if name not in without_table(ranker)}
    ranker.load_state_dict(
        kept | {name: _rows_of(own[name], whole) for name, whole in state.items()}
    )


def _rows_of(model: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(model, DTensor):
        return whole
    local = model.to_local()
    first = model.device_mesh.get_local_rank() * len(local)
    mine = whole[first : first + len(local)]
    part = local.new_zeros(local.shape)
    part[: len(mine)] = mine
    parted: Tensor = as_part_of(model, part)
    return parted
