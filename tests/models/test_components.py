"""Principal components."""

import numpy as np
import pytest

from models.components import fit_components


def cloud(rows: int = 200) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    rng = np.random.default_rng(0)
    return (rng.normal(size=(rows, 5)) * [5, 3, 1, 0.1, 0.01] + 2).astype(np.float32)


def test_components_are_those_of_the_singular_values() -> None:
    points = cloud()
    found = fit_components(points, 2)
    centred = points.astype(np.float64) - points.astype(np.float64).mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.axes_PV @ axes[:2].T), np.eye(2), atol=1e-5)
    assert found.kept == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())
    projected = found.apply(points)
    assert projected.shape == (200, 2)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, atol=1e-6)


def test_signs_do_not_depend_on_the_order_of_the_vectors() -> None:
    points = cloud()
    there, back = fit_components(points, 3), fit_components(points[::-1].copy(), 3)
    np.testing.assert_allclose(there.axes_PV, back.axes_PV, atol=1e-5)


def test_a_projection_does_not_depend_on_its_neighbours() -> None:
    points = cloud()
    found = fit_components(points, 4)
    assert np.array_equal(found.apply(points)[17:18], found.apply(points[17:18]))


@pytest.mark.parametrize("count", [0, 6])
def test_more_components_than_coordinates_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} components of 200 vectors of width 5"):
        fit_components(cloud(), count)
