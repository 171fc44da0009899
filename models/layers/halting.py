"""When a chain of thoughts has come to rest, row by row.

Shape legend: S states (K + 1), K thoughts, B rows, D width, N items, C rows of one chunk.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Log probabilities held at once: 64 MiB of float32, whatever the catalogue.
CHUNK_LOGS = 2**24
AGREEMENT_ITEMS = 10


@dataclass(frozen=True)
class HaltingRule:
    """Thresholds; a row halts at its first thought that meets any of them, None never does.

    Attributes:
        divergence: KL divergence from the thought before, in nats, at most.
        entropy: Entropy of the thought's item distribution, in nats, at most.
        agreement: Jaccard index of the ten best items with those of the thought before, at least.
        change: Norm of the state's change over the norm of the state, at most.
    """

    divergence: float | None = None
    entropy: float | None = None
    agreement: float | None = None
    change: float | None = None

    @property
    def is_off(self) -> bool:
        """Whether no threshold is set."""
        return all(getattr(self, field.name) is None for field in fields(self))


@dataclass(frozen=True, eq=False)
class HaltingSignals:
    """What each thought says of the chain so far, float32 [K, B] each; see `HaltingRule`."""

    divergence_KB: Tensor
    entropy_KB: Tensor
    agreement_KB: Tensor
    change_KB: Tensor


@torch.no_grad()
def halting_signals(states_SBD: Tensor, queries_SBD: Tensor, items_ND: Tensor) -> HaltingSignals:
    """Measure every thought of a chain over all items that a list can hold.

    Args:
        states_SBD: Hidden states, the unreasoned one first.
        queries_SBD: What scores of each state.
        items_ND: Vectors of these items as scoring uses them.
    """
    rows = max(1, CHUNK_LOGS // (len(states_SBD) * len(items_ND)))
    found = []
    for queries_SCD in torch.split(queries_SBD, rows, dim=1):
        logs_SCN = (queries_SCD @ items_ND.T).float().log_softmax(dim=2)
        shares_SCN = logs_SCN.exp()
        divergence_KC = (shares_SCN[:-1] * (logs_SCN[:-1] - logs_SCN[1:])).sum(dim=2).clamp(min=0)
        entropy_KC = -(shares_SCN[1:] * logs_SCN[1:]).sum(dim=2)
        found.append(torch.stack([divergence_KC, entropy_KC, _agreement(logs_SCN)]))
    moved_KB = (states_SBD[1:] - states_SBD[:-1]).norm(dim=2)
    change_KB = moved_KB / states_SBD[1:].norm(dim=2).clamp(min=1e-12)
    divergence_KB, entropy_KB, agreement_KB = torch.cat(found, dim=2)
    return HaltingSignals(divergence_KB, entropy_KB, agreement_KB, change_KB)


def _agreement(logs_SCN: Tensor) -> Tensor:
    """Jaccard index of the best items of neighbouring states: [K, C]."""
    best = min(AGREEMENT_ITEMS, logs_SCN.shape[2])
    ids_SCk = logs_SCN.topk(best, dim=2).indices
    shared_KC = (ids_SCk[:-1, :, :, None] == ids_SCk[1:, :, None, :]).flatten(2).sum(dim=2)
    return shared_KC / (2 * best - shared_KC)


def thoughts_taken(signals: HaltingSignals, rule: HaltingRule) -> Tensor:
    """Number the thought at which each row halts, int64 [B]: 1..K, K where nothing is met."""
    meets_KB = torch.zeros_like(signals.change_KB, dtype=torch.bool)
    if rule.divergence is not None:
        meets_KB |= signals.divergence_KB <= rule.divergence
    if rule.entropy is not None:
        meets_KB |= signals.entropy_KB <= rule.entropy
    if rule.agreement is not None:
        meets_KB |= signals.agreement_KB >= rule.agreement
    if rule.change is not None:
        meets_KB |= signals.change_KB <= rule.change
    meets_KB[-1:] = True
    return meets_KB.to(torch.int8).argmax(dim=0) + 1
