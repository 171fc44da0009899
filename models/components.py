"""Principal components: fewer coordinates that keep most of what tells vectors apart.

Shape legend: X vectors, V width, P components.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Components:
    """A projection that was fitted once.

    Attributes:
        mean_V: float32, what is subtracted first.
        axes_PV: float32, orthogonal directions of unit length, the most telling first.
        kept: Share of the variance that they keep.
    """

    mean_V: Floats
    axes_PV: Floats
    kept: float

    def apply(self, vectors_XV: Floats) -> Floats:
        """Project vectors and scale them to unit length: float32 [X, P].

        Sums are formed in float64, so that a vector's projection does not depend on its neighbours.
        """
        centred_XV = vectors_XV.astype(np.float64) - self.mean_V
        projected_XP = centred_XV @ self.axes_PV.astype(np.float64).T
        lengths_X1 = np.linalg.norm(projected_XP, axis=1, keepdims=True)
        scaled: Floats = (projected_XP / np.maximum(lengths_X1, 1e-12)).astype(np.float32)
        return scaled


def fit_components(vectors_XV: Floats, count: int) -> Components:
    """Find the directions of greatest variance; equal vectors give equal components.

    Args:
        vectors_XV: Finite vectors.
        count: Components P wanted.

    Raises:
        ValueError: If there are fewer vectors or coordinates than components.
    """
    rows, width = vectors_XV.shape
    if not 1 <= count <= min(rows, width):
        raise ValueError(f"cannot find {count} components of {rows} vectors of width {width}")
    points_XV = vectors_XV.astype(np.float64)
    mean_V = points_XV.mean(axis=0)
    centred_XV = points_XV - mean_V
    variances_V, columns_VV = np.linalg.eigh(centred_XV.T @ centred_XV / rows)
    axes_PV = columns_VV[:, ::-1][:, :count].T
    # An eigenvector's sign is arbitrary: its greatest coordinate is made positive.
    greatest_P = np.abs(axes_PV).argmax(axis=1)
    axes_PV = axes_PV * np.sign(axes_PV[np.arange(count), greatest_P])[:, None]
    total = float(variances_V.sum())
    kept = float(variances_V[::-1][:count].sum()) / total if total > 0 else 1.0
    return Components(mean_V.astype(np.float32), axes_PV.astype(np.float32), kept)
