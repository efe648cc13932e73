"""Geometry of embeddings against the matrix of all pairs, and closed forms."""

import math

import pytest
import torch

from probcl.evaluation.geometry import (
    alignment,
    class_concentration,
    class_mean_angles,
    effective_rank,
    participation_ratio,
    singular_spectrum,
    uniformity,
)
from probcl.sphere import normalize

Z = normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double))
Y = torch.arange(60) % 4


def test_the_spectrum_is_that_of_the_matrix(dtype):
    for shape in ((60, 5), (4, 9)):
        x = torch.randn(shape, dtype=dtype)
        expected = torch.linalg.svdvals(x.double())
        torch.testing.assert_close(singular_spectrum(x), expected, atol=1e-6, rtol=1e-6)


def test_equal_directions_are_counted():
    for measure in (effective_rank, participation_ratio):
        assert measure(singular_spectrum(torch.eye(5)[[0, 1, 2]])) == pytest.approx(3)
        assert measure(singular_spectrum(torch.ones(6, 4))) == pytest.approx(1, abs=1e-4)


def test_alignment_and_uniformity_equal_all_pairs():
    distance = (Z[:, None] - Z).square().sum(-1)
    pairs = (Y[:, None] == Y) & ~torch.eye(60, dtype=torch.bool)
    assert alignment(Z, Y) == pytest.approx(distance[pairs].mean().item())
    others = ~torch.eye(60, dtype=torch.bool)
    expected = (-2 * distance[others]).exp().mean().log().item()
    assert uniformity(Z) == pytest.approx(expected)
    assert uniformity(Z[::3]) == pytest.approx(uniformity(Z, largest=20), rel=0.2)


def test_concentration_and_angles_of_known_classes():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.double)
    lengths = class_concentration(z, [0, 0, 3, 3])
    assert lengths == {0: 1.0, 3: pytest.approx(math.sqrt(0.3**2 + 0.9**2))}
    classes, angles = class_mean_angles(z, [0, 0, 3, 3])
    assert classes.tolist() == [0, 3]
    assert angles[0, 1].item() == pytest.approx(math.degrees(math.atan2(0.9, 0.3)))
    assert angles[0, 0] == 0


def test_order_changes_nothing():
    order = torch.randperm(60)
    assert alignment(Z[order], Y[order]) == pytest.approx(alignment(Z, Y))
    assert uniformity(Z[order]) == pytest.approx(uniformity(Z))


def test_bad_input():
    with pytest.raises(ValueError, match="a class of two members"):
        alignment(Z[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity(Z[:1])
    with pytest.raises(ValueError, match="finite, row 2 is not"):
        uniformity(torch.tensor([[1.0], [1.0], [torch.inf]]))


def test_uniformity_of_more_items_than_a_block_is_that_of_all_pairs():
    z = normalize(torch.randn(1100, 4, dtype=torch.float64, generator=torch.manual_seed(0)))
    distances = torch.pdist(z).square()
    assert uniformity(z) == pytest.approx(torch.exp(-2 * distances).mean().log().item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_uniformity_in_half_precision_is_that_of_the_numbers_there(dtype):
    z = normalize(torch.randn(1, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    z = torch.cat([z, -z])
    expected = -2 * torch.pdist(z.double()).square().item()
    assert uniformity(z) == pytest.approx(expected, rel=1e-5)


def test_dimensions_are_counted_at_any_scale():
    for scale in (1e-12, 1.0, 1e10):
        assert participation_ratio(torch.tensor([scale, scale])) == pytest.approx(2)
