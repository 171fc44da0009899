"""Run a function in several processes that form a gloo group."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.workers import Workers

WORLD = 2


def together(function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Call `function(workers, *args)` in each process; returns what each returned."""
    mp.spawn(_run, (function, str(folder), args), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _run(rank: int, function: Callable[..., Any], folder: str, args: tuple[Any, ...]) -> None:
    os.environ["USE_LIBUV"] = "0"
    torch.set_num_threads(1)
    address = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    try:
        mesh = dist.init_device_mesh("cpu", (WORLD,))
        torch.save(function(Workers(mesh), *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
