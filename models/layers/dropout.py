"""Dropout that draws several masks from every random word on a CPU."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def factors(shape: torch.Size, share: float, dtype: torch.dtype) -> Tensor:
    """Draw on the CPU what dropout multiplies by: 0, or what makes up for the share that goes.

    A 64-bit word serves eight elements, or four where 1/256 is too coarse for the share, which is
    then rounded to 1/65536. Words come from NumPy's SFC64 and are compared by NumPy, each in about
    a quarter of the time that torch takes on a CPU; torch's generator seeds them, so that a run is
    repeated or resumed as ever.
    """
    count = shape.numel()
    kind: type[np.int8 | np.int16] = np.int8 if (share * 256).is_integer() else np.int16
    generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
    words: NDArray[Any] = np.asarray(generator.random_raw(-(-count * kind().itemsize // 8)))
    info = np.iinfo(kind)
    least = info.min + round(share * (int(info.max) - info.min + 1))
    stays = np.greater_equal(words.view(kind)[:count], least)
    kept = torch.from_numpy(stays.view(np.uint8)).to(dtype).mul_(1.0 / (1.0 - share))
    return kept.view(shape)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a share of the elements and scale up the rest; the input itself outside training."""
    if not training or share == 0.0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, share, True)
    return x * factors(x.shape, share, x.dtype)
