"""The known items that a new item is most like: what it can borrow until it is trained.

Shape legend: N catalogue size (row 0 is padding), C directions of a text, D width, K known items, W
new items, M kin of one, R new items of one chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.similar_items import CHUNK_SIMILARITIES

# New items compared at once, at most.
MOST_ROWS = 256
# Divides cosines in the softmax that weighs kin.
TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class Kin:
    """The known items nearest to each new one.

    Attributes:
        new_W: Ids of the new items.
        kin_WM: Ids of the known items nearest to each.
        weights_WM: Their shares, which add up to one.
    """

    new_W: Tensor
    kin_WM: Tensor
    weights_WM: Tensor

    def blend(self, parts_N1D: Tensor) -> Tensor:
        """Average what the kin have by their shares: [W, D]."""
        blended_WD = parts_N1D.new_zeros(len(self.new_W), parts_N1D.shape[1])
        for kin_W, weights_W in zip(self.kin_WM.T, self.weights_WM.T, strict=True):
            blended_WD += weights_W[:, None] * parts_N1D[kin_W]
        return blended_WD


@torch.no_grad()
def find_kin(directions_N1C: Tensor, known_N1: Tensor, new_N1: Tensor, count: int) -> Kin:
    """Find the `count` known items nearest by cosine to each new item.

    Args:
        directions_N1C: Unit vectors of the items' texts.
        known_N1: Items that can lend.
        new_N1: Items that borrow.
        count: Kin M of each; fewer where fewer are known.
    """
    new_W, known_K = new_N1.nonzero()[:, 0], known_N1.nonzero()[:, 0]
    count = min(count, len(known_K))
    kin_WM = new_W.new_zeros(len(new_W), count)
    weights_WM = torch.zeros(len(new_W), count, device=new_W.device)
    if not count or not len(new_W):
        return Kin(new_W, kin_WM, weights_WM)
    known_KC = directions_N1C[known_K].float()
    # Always as many at once, or the last bits would depend on who else is new.
    rows = min(MOST_ROWS, max(1, CHUNK_SIMILARITIES // len(known_K)))
    for first in range(0, len(new_W), rows):
        own_RC = directions_N1C[new_W[first : first + rows]].float()
        filled_RC = functional.pad(own_RC, (0, 0, 0, rows - len(own_RC)))
        cosines_RM, places_RM = (filled_RC @ known_KC.T)[: len(own_RC)].topk(count, dim=1)
        shares_RM = torch.softmax(cosines_RM / TEMPERATURE, dim=1)
        kin_WM[first : first + rows] = known_K[places_RM]
        # A text that points nowhere is nobody's kin.
        weights_WM[first : first + rows] = shares_RM * own_RC.any(dim=1, keepdim=True)
    return Kin(new_W, kin_WM, weights_WM)
