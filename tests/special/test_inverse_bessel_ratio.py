"""The inverse of the ratio of Bessel functions undoes it."""

import pytest
import torch

from probcl.special import bessel_ratio, inverse_bessel_ratio


@pytest.mark.parametrize("dim", [2, 3, 10, 128, 2048])
def test_it_undoes_the_ratio(dim, dtype):
    kappa = torch.logspace(-3, 3, 40, dtype=dtype) * dim**0.5
    ratio = bessel_ratio(kappa, dim)
    kept = ratio < 1 - 1e-4
    again = inverse_bessel_ratio(ratio, dim)
    tolerance = 1e-8 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(again[kept], kappa[kept], rtol=tolerance, atol=tolerance)


def test_its_ends():
    ends = inverse_bessel_ratio(torch.tensor([0.0, 1.0]), 5)
    assert ends[0] == 0
    assert ends[1].isfinite()
