"""The sums over all pairs, tile by tile, against the matrix of all pairs."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from probcl.objectives.pairwise import pair_sums

# Tiles of unequal size, across classes and groups.
every_side = pytest.mark.parametrize("side", [None, 5, 3])


def embeddings(samples=2, count=12, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, count, dim, generator=generator, dtype=torch.float64)
    return (3 * normalize(z, dim=-1)).requires_grad_()


def dense(z: Tensor, groups: Tensor, classes: Tensor) -> Tensor:
    logits, index = z @ z.mT, torch.arange(z.shape[1])
    log_sums = logits.masked_fill(groups[:, None] == groups, -torch.inf).logsumexp(-1)
    same_class = (classes[:, None] == classes) & (index[:, None] != index)
    return torch.stack([log_sums, (logits * same_class).sum(-1)])


def assert_same(ours: Tensor, theirs: Tensor, z: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.rand(ours.shape, dtype=z.dtype)
    gradients = [torch.autograd.grad((x * weights).sum(), z)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@every_side
@pytest.mark.parametrize("group", [1, 2, 3])
def test_groups_are_left_out(side, group):
    z, index = embeddings(), torch.arange(12)
    ours, _ = pair_sums(z, 9.0, group=group, side=side)
    assert_same(ours, dense(z, index // group, index)[0], z)


@every_side
@pytest.mark.parametrize("group", [1, 2, 3, 12])
def test_each_of_a_group_is_returned(side, group):
    z, member = embeddings(), torch.arange(12) // group * group
    _, ours = pair_sums(z, 9.0, group=group, side=side)
    logits = z @ z.mT
    theirs = [logits[:, torch.arange(12), member + place] for place in range(group)]
    assert_same(ours, torch.stack(theirs), z)


@every_side
def test_classes_are_summed_and_pairs_left_out(side):
    classes = torch.tensor([0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4])
    groups = torch.tensor([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    z = embeddings()
    ours = torch.stack(pair_sums(z, 9.0, group=2, grouped=4, classes=classes, side=side))
    assert_same(ours, dense(z, groups, classes), z)


@pytest.mark.parametrize("largest", [9.0, 50.0, 400.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_inner_products_stay_in_range(largest, dtype):
    axis = normalize(torch.randn(5, generator=torch.Generator().manual_seed(1)), dim=-1).double()
    # Near one axis and near its opposite: from the largest inner product to the lowest.
    z = normalize(torch.stack([axis, -axis]).repeat(6, 1) + 0.1 * embeddings(1), dim=-1)
    z = (largest**0.5 * z).to(dtype).detach().requires_grad_()
    index = torch.arange(12)
    value, _ = pair_sums(z, largest, group=2)
    exact = z.detach().double().requires_grad_()
    expected = dense(exact, index // 2, index)[0]
    assert value.dtype == dtype
    assert ((value - expected).abs() <= 4 * torch.finfo(dtype).eps * largest).all()
    gradient, reference = (
        torch.autograd.grad(x.sum(), y)[0] for x, y in ((value, z), (expected, exact))
    )
    bar = 4 * torch.finfo(dtype).eps * largest
    assert (gradient - reference).norm() <= bar * reference.norm()


@every_side
def test_second_derivatives(side):
    classes = torch.tensor([0, 0, 1, 2, 2, 2])
    z = embeddings(1, 6, 3)

    def sums(z):
        return torch.stack(pair_sums(z, 9.0, group=2, grouped=2, classes=classes, side=side))

    assert torch.autograd.gradgradcheck(sums, z)


@every_side
@pytest.mark.parametrize("group", [1, 2, 3])
def test_second_derivatives_of_groups(side, group):
    def both(z):
        sums, positives = pair_sums(z, 9.0, group=group, side=side)
        return torch.cat([sums[None], positives])

    assert torch.autograd.gradgradcheck(both, embeddings(1, 6, 3))
