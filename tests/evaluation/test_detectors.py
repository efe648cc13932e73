"""Detectors of frozen features, against their published forms and pytorch-ood's."""

import numpy as np
import pytest
import torch

from probcl.evaluation import (
    Gaussians,
    auroc,
    fit_linear_probe,
    fit_rectified,
    fit_virtual_logit,
    neighbour_distance,
    relative_mahalanobis,
)

FAR = 200


@pytest.fixture(scope="module")
def items():
    """Features of three classes, as ReLUs leave them; their labels; new ones, the last far away."""
    random = torch.Generator().manual_seed(0)
    centres = 2 * torch.rand(3, 12, generator=random)
    y = torch.arange(600) % 3
    x = (centres[y] + 0.5 * torch.randn(600, 12, generator=random)).relu()
    far = (1.5 + 2 * torch.randn(FAR, 12, generator=random)).relu()
    return (
        x,
        y,
        torch.cat([(centres[y] + 0.5 * torch.randn(600, 12, generator=random)).relu(), far]),
    )


@pytest.fixture(scope="module")
def probe(items):
    return fit_linear_probe(*items[:2])


@pytest.fixture(scope="module")
def peers():
    return pytest.importorskip("pytorch_ood.detector", reason="pip install pytorch-ood")


def raw(probe):
    """Return weight and bias of the features as they are, without what all classes share."""
    weight = probe.weight.double() / probe.scale
    bias = probe.bias - weight @ probe.mean.double()
    return weight - weight.mean(0), bias - bias.mean()


def plain_gaussians(x, y):
    """Return Gaussians whose covariance is not shrunk."""
    means = torch.stack([x[y == label].mean(0) for label in y.unique()])
    rest = (x - means[y]).double()
    values, vectors = torch.linalg.eigh(rest.T @ rest / len(x))
    return Gaussians(means.double(), vectors * values.rsqrt())


def test_the_distance_of_neighbours_is_that_of_scikit_learn(items):
    from sklearn.neighbors import NearestNeighbors

    x, _, new = items
    unit = torch.nn.functional.normalize(x.double()), torch.nn.functional.normalize(new.double())
    expected = NearestNeighbors(n_neighbors=50).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    found = neighbour_distance(new.double(), x.double())
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-7, rtol=0)
    assert len(neighbour_distance(new, x[:7])) == len(new)  # of fewer, all


def test_relative_mahalanobis_by_hand(items):
    x, y, new = items
    classes, all_items = plain_gaussians(x, y), plain_gaussians(x, torch.zeros_like(y))
    found = relative_mahalanobis(new, classes, all_items)
    covariance = np.cov(x.double().T, bias=True)
    around = new.double() - x.double().mean(0)
    own = np.einsum("ni,ij,nj->n", around, np.linalg.inv(covariance), around)
    rest = (x - classes.means[y]).double()
    within = torch.linalg.inv(rest.T @ rest / len(x))
    each = torch.stack([((new - m) @ within * (new - m)).sum(-1) for m in classes.means]).amin(0)
    torch.testing.assert_close(found, each - torch.as_tensor(own), atol=1e-4, rtol=1e-5)


def test_they_are_those_of_pytorch_ood(items, probe, peers):
    x, y, new = items
    weight, bias = raw(probe)
    theirs = peers.ViM(None, 5, weight, bias).fit_features(x, y).predict_features(new)
    ours = fit_virtual_logit(x, probe, dim=5)(new)
    torch.testing.assert_close(ours, theirs.double(), atol=1e-3, rtol=1e-5)  # float32 alone
    theirs = peers.RMD(None).fit_features(x, y).predict_features(new)  # float32 alone
    gaussians = plain_gaussians(x.double(), y), plain_gaussians(x.double(), torch.zeros_like(y))
    ours = relative_mahalanobis(new.double(), *gaussians)  # theirs is by the sum of squares
    torch.testing.assert_close(ours / len(x), theirs.double(), atol=1e-6, rtol=1e-5)
    theirs = peers.KNN(None, k=50).fit_features(x.double(), y).predict_features(new.double())
    torch.testing.assert_close(neighbour_distance(new.double(), x.double()), theirs, atol=1e-6,
                               rtol=0)  # fmt: skip
    react = peers.ReAct(lambda z: z, lambda z: z @ weight.float().T + bias.float())
    react.fit_feature_maps(x, y)
    theirs = react.predict_feature_maps(new)
    torch.testing.assert_close(fit_rectified(x, probe)(new), theirs.double(), atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e10])
def test_a_virtual_logit_by_hand_and_at_any_scale(classes, scale):
    random = torch.Generator().manual_seed(classes)
    y = torch.arange(1000) % classes
    x = torch.randn(1000, 40, generator=random)
    x += 2 * torch.randn(classes, 40, generator=random)[y]
    probe = fit_linear_probe(x, y)
    weight, bias = raw(probe)
    around = x.double() + torch.linalg.pinv(weight, rtol=1e-9) @ bias
    beside = torch.linalg.eigh(around.T @ around).eigenvectors[:, :20]
    norm = (around @ beside).norm(dim=-1)
    logits = probe.logits(x).double()
    expected = logits.amax(-1).mean() / norm.mean() * norm - logits.logsumexp(-1)
    found = fit_virtual_logit(x * scale, fit_linear_probe(x * scale, y))(x * scale)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_where_nothing_is_left_over_there_is_no_virtual_logit(items):
    x, y, _ = items
    x = torch.cat([x[:, :6], x[:, :6]], 1)  # of six dimensions
    probe = fit_linear_probe(x, y)
    expected = -probe.logits(x).double().logsumexp(-1)
    torch.testing.assert_close(fit_virtual_logit(x, probe, dim=6)(x), expected)


def test_a_rectified_energy_is_that_of_clipped_features(items, probe):
    x, _, new = items
    rule = fit_rectified(x, probe, share=0.5)
    assert rule.threshold == pytest.approx(np.median(x), abs=2e-3)
    clipped = new.clamp(max=rule.threshold)
    weight, bias = raw(probe)
    expected = -(clipped.double() @ weight.T + bias).logsumexp(-1)
    torch.testing.assert_close(rule(new), expected, atol=1e-4, rtol=1e-4)
    assert fit_rectified(x, probe, share=1.0).threshold == x.max()


def test_each_finds_what_is_far_away(items, probe):
    x, y, new = items
    found = {
        "neighbours": neighbour_distance(new, x),
        "relative": relative_mahalanobis(new, plain_gaussians(x, y),
                                         plain_gaussians(x, torch.zeros_like(y))),
        "virtual logit": fit_virtual_logit(x, probe)(new),
    }  # fmt: skip
    for name, score in found.items():
        assert auroc(score[:-FAR], score[-FAR:]) > 0.8, name


def test_a_class_that_was_not_seen_has_no_part_in_a_virtual_logit(items):
    x, y, new = items
    probe = fit_linear_probe(x, 2 * y, num_classes=6)
    known = fit_linear_probe(x, y)
    torch.testing.assert_close(
        fit_virtual_logit(x, probe)(new), fit_virtual_logit(x, known)(new), atol=1e-3, rtol=1e-4
    )
    with pytest.raises(ValueError, match="dim must be from 0 to 11, below the features, got 12"):
        fit_virtual_logit(x, probe, dim=12)
