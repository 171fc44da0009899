"""Wrap a ranker for training by several workers: all but its item table.

Either way each worker's gradients end as the average over the workers. A table in parts arrives at
the same average by itself (see `ItemTable`).
"""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from models.base import Ranker
from models.encoders.base import Encoder
from models.local_state import without_table
from models.workers import Workers


def replicated(ranker: Ranker) -> DistributedDataParallel:
    """Keep all weights on every worker (DDP)."""
    parted = [name for name, p in ranker.named_parameters() if isinstance(p, DTensor)]
    # Private and without annotations, but nothing else keeps a parameter out of DDP.
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(ranker, parted)  # type: ignore[no-untyped-call]
    on_gpu = ranker.device.type == "cuda"
    # Buffers hold statistics and derived labels, which are the same on every worker already.
    return DistributedDataParallel(
        ranker, device_ids=[ranker.device] if on_gpu else None, broadcast_buffers=False
    )


def fully_sharded(ranker: Ranker, mesh: DeviceMesh) -> Ranker:
    """Keep a part of each weight and of its optimiser state on every worker (FSDP2).

    An encoder is gathered at its first use and stays so until its gradients are known: the
    reasoning steps go on from it. Numbers that stand alone cannot be cut; they stay whole, and so
    does an item table that was not laid over the workers.
    """
    if isinstance(ranker, FSDPModule):  # of an earlier stage
        return ranker
    table = ranker.item_table
    of_table = set() if table is None else set(table.parameters())
    # A table in parts averages its own gradients; a whole one is looked into between passes.
    alone = [
        p
        for p in ranker.parameters()
        if p.dim() == 0 or (p in of_table and not isinstance(p, DTensor))
    ]
    ignored = {p for p in ranker.parameters() if p.dim() == 0 or p in of_table}
    for module in ranker.children():
        if isinstance(module, Encoder):
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
            for method in ("step", "enter"):
                register_fsdp_forward_method(module, method)
    fully_shard(ranker, mesh=mesh, reshard_after_forward=False, ignored_params=ignored)
    register_fsdp_forward_method(ranker, "encode")
    _average(alone, Workers(mesh))
    return ranker


def _average(parameters: list[nn.Parameter], workers: Workers) -> None:
    def average(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad = workers.sum(parameter.grad) / workers.world

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(average)


def whole_weights(ranker: Ranker) -> dict[str, Tensor]:
    """Gather all weights as plain tensors on the CPU, but an item table in parts; collective."""
    parted = ranker.workers.world > 1
    state = without_table(ranker) if parted else ranker.state_dict()
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in state.items()
    }
