"""The momentum encoder against an average written by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn

from probcl.nn import ConvNet, MomentumEncoder, ResNet

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _encoder(dtype=torch.float32):
    """Return an encoder with weights, statistics of batches and integer buffers."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).to(dtype)


def _train_a_step(encoder, optimizer, images):
    optimizer.zero_grad()
    encoder(images).square().mean().backward()
    optimizer.step()


def test_it_is_the_average_written_by_hand(dtype):
    encoder = _encoder(dtype)
    target = MomentumEncoder(encoder, momentum=0.9)
    averages = [p.detach().clone() for p in encoder.parameters()]
    statistics = [encoder[1].running_mean.clone(), encoder[1].running_var.clone()]
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for step, momentum in enumerate((0.9, 0.9, 0.3, 0.0, 1.0, 0.9), start=1):
        _train_a_step(encoder, optimizer, torch.rand(6, 3, 8, 8, dtype=dtype))
        target.momentum = momentum
        target.update(encoder)
        for average, value in zip(averages, encoder.parameters(), strict=True):
            average.mul_(momentum).add_((1 - momentum) * value.detach())
        for average, value in zip(statistics, encoder[1].buffers(), strict=False):
            average.mul_(momentum).add_((1 - momentum) * value)
        torch.testing.assert_close(list(target.encoder.parameters()), averages, check_dtype=True)
        buffers = list(target.encoder[1].buffers())
        torch.testing.assert_close(buffers[:2], statistics)
        assert buffers[2].dtype == torch.int64
        assert buffers[2] == step


def test_the_first_update_does_not_copy():
    encoder = nn.Linear(2, 2)
    target = MomentumEncoder(encoder)
    start = encoder.weight.detach().clone()
    with torch.no_grad():
        encoder.weight.add_(1.0)
    target.update(encoder)
    torch.testing.assert_close(target.encoder.weight, start + 0.01)


def test_no_gradient_reaches_it_and_an_optimizer_leaves_it_as_it_is():
    encoder = _encoder()
    target = MomentumEncoder(encoder)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    both = nn.ModuleList([encoder, target])
    optimizer = torch.optim.AdamW(both.parameters(), lr=0.1, weight_decay=0.5)
    before = copy.deepcopy(target.encoder)
    images = IMAGES.clone().requires_grad_()
    features = target.eval()(images)
    assert not features.requires_grad
    (encoder(IMAGES) - features).square().mean().backward()
    optimizer.step()
    for ours, theirs in zip(target.encoder.parameters(), before.parameters(), strict=True):
        assert ours.grad is None
        assert torch.equal(ours, theirs)
    assert set(optimizer.state) == set(encoder.parameters())


def test_it_gives_the_features_of_the_encoder_it_copied():
    encoder = _encoder()
    target = MomentumEncoder(encoder)
    torch.testing.assert_close(target(IMAGES), encoder(IMAGES))
    assert target.encoder[1].num_batches_tracked == 1  # training, so batch statistics
    target.eval()
    target(IMAGES)
    assert target.encoder[1].num_batches_tracked == 1
    assert encoder.training


def test_the_copy_of_a_lazy_encoder_starts_with_the_first_update():
    encoder = ConvNet((4, 8))
    target = MomentumEncoder(encoder, momentum=0.5)
    modules = list(target.modules())
    with pytest.raises(ValueError, match=r"no weights yet.*: call its update\(encoder\) once"):
        target(IMAGES)
    with pytest.raises(ValueError, match="lazy layers without weights: let it see an image before"):
        target.update(encoder)
    encoder(IMAGES)
    target.update(encoder)
    assert list(target.modules()) == modules
    assert not any(parameter.requires_grad for parameter in target.parameters())
    torch.testing.assert_close(target.eval()(IMAGES), encoder.eval()(IMAGES), rtol=0, atol=0)
    start = next(encoder.parameters()).detach().clone()
    with torch.no_grad():
        next(encoder.parameters()).add_(1.0)
    target.update(encoder)
    torch.testing.assert_close(next(target.encoder.parameters()), start + 0.5)


def test_a_lazy_copy_can_be_loaded():
    encoder = ConvNet((4, 8))
    target = MomentumEncoder(encoder)
    encoder(IMAGES)
    target.update(encoder)
    loaded = MomentumEncoder(ConvNet((4, 8)))
    loaded.load_state_dict(target.state_dict())
    torch.testing.assert_close(loaded.eval()(IMAGES), target.eval()(IMAGES))


def test_its_state_is_that_of_the_encoder():
    encoder = ResNet(18, stem="cifar")
    target = MomentumEncoder(encoder)
    assert list(target.state_dict()) == [f"encoder.{name}" for name in encoder.state_dict()]
    for twin in (copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        assert twin.momentum == 0.99
        assert not any(parameter.requires_grad for parameter in twin.parameters())
        torch.testing.assert_close(twin.eval()(IMAGES), target.eval()(IMAGES))
        twin.update(encoder)


def test_it_follows_a_compiled_encoder_and_can_be_compiled():
    torch.compiler.reset()
    encoder = _encoder().eval()
    encoder.compile(backend="eager")
    expected = encoder(IMAGES).detach()
    target = MomentumEncoder(encoder).eval()
    target.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(target(IMAGES), expected)
    with torch.no_grad():
        encoder[4].bias.add_(1.0)
    target.momentum = 0.5
    target.update(encoder)
    torch.testing.assert_close(target(IMAGES), expected + 0.5)


def test_weights_of_two_precisions_are_averaged():
    encoder = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2).double()})
    target = MomentumEncoder(encoder, momentum=0.5)
    start = [p.detach().clone() for p in encoder.parameters()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    target.update(encoder)
    expected = [p + 0.5 for p in start]
    torch.testing.assert_close(list(target.parameters()), expected)


def test_a_module_without_weights_is_followed():
    target = MomentumEncoder(nn.Flatten())
    target.update(nn.Flatten())
    assert target(IMAGES).shape == (6, 192)


def test_bad_arguments_are_named():
    for momentum in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"momentum must lie in \[0, 1\), got {momentum}"):
            MomentumEncoder(nn.Linear(2, 2), momentum)
    for other in (nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="the encoder has other weights than the one that"):
            MomentumEncoder(nn.Linear(2, 2)).update(other)
