"""Learning from rewards relative to those of a group.

Shape legend: R groups, V draws of one group.
"""

import torch
from torch import Tensor

# Rewards of a group that differ by less are equal: rounding must not become an advantage.
SMALLEST_SPREAD = 1e-4


@torch.no_grad()
def group_advantages(rewards_RV: Tensor) -> Tensor:
    """Centre each group's rewards and divide by their standard deviation: [R, V].

    Source: Shao et al., DeepSeekMath (GRPO), 2024 (arXiv 2402.03300).
    """
    if rewards_RV.numel() == 0:
        return rewards_RV
    centred_RV = rewards_RV - rewards_RV.mean(dim=1, keepdim=True)
    spread_R1 = centred_RV.square().mean(dim=1, keepdim=True).sqrt()
    return centred_RV / (spread_R1 + SMALLEST_SPREAD)
