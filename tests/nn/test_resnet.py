"""Residual networks against torchvision's own."""

import pytest
import torch
from torch import nn
from torchvision import models, transforms
from torchvision.models import get_model_weights

from probcl.nn import ResNet
from probcl.nn.images import IMAGENET_MEAN, IMAGENET_STD

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("depth", "features"), [(18, 512), (50, 2048)])
def test_it_is_torchvisions(depth, features):
    reference = models.get_model(f"resnet{depth}")
    reference(IMAGES)  # moves the statistics of batch normalisation
    classifier = {name for name in reference.state_dict() if name.startswith("fc.")}
    encoder = ResNet(depth).eval()
    incompatible = encoder.load_state_dict(reference.state_dict(), strict=False)
    assert not incompatible.missing_keys
    assert set(incompatible.unexpected_keys) == classifier
    reference.fc = nn.Identity()
    expected = reference.eval()(transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(IMAGES))
    assert expected.shape == (4, features)
    torch.testing.assert_close(encoder(IMAGES), expected)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_numbers_of_weights_are_those_that_torchvision_states(depth):
    with torch.device("meta"):
        encoder = ResNet(depth)
    features = 512 if depth < 50 else 2048
    stated = get_model_weights(f"resnet{depth}").DEFAULT.meta["num_params"]
    assert _count(encoder) == stated - (features + 1) * 1000


def test_depth_200_has_the_number_of_weights_of_its_blocks():
    expected = 3 * 64 * 7 * 7 + 2 * 64
    inputs = 64
    for width, blocks in ((64, 3), (128, 24), (256, 36), (512, 3)):
        outputs = 4 * width
        expected += inputs * outputs + 2 * outputs  # the shortcut of the first block
        for _ in range(blocks):
            expected += inputs * width + 9 * width * width + width * outputs
            expected += 2 * (width + width + outputs)  # batch normalisation
            inputs = outputs
    with torch.device("meta"):
        assert _count(ResNet(200)) == expected
    assert round((expected + 2049 * 1000) / 1e6, 1) == 64.7  # with a classifier, as published


def test_the_cifar_stem_keeps_the_resolution():
    encoder = ResNet(18, stem="cifar")
    shapes = {}
    encoder.layer1.register_forward_pre_hook(lambda _, x: shapes.update(layer1=x[0].shape))
    encoder.layer4.register_forward_hook(lambda _, __, y: shapes.update(layer4=y.shape))
    assert encoder(IMAGES).shape == (4, 512)
    assert shapes == {"layer1": (4, 64, 32, 32), "layer4": (4, 512, 4, 4)}
    assert encoder.conv1.weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize(("stem", "kernel"), [("imagenet", 7), ("cifar", 3)])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_the_first_convolution_starts_as_torchvisions_do(stem, kernel, channels):
    encoder = ResNet(18, stem=stem, channels=channels)
    weight = encoder.conv1.weight
    assert weight.shape == (64, channels, kernel, kernel)
    # Normal, of variance 2 / fan_out, whatever the channels.
    expected = (2 / (64 * kernel * kernel)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.15)
    assert weight.mean().abs() < 5 * expected / weight.numel() ** 0.5
    assert encoder(torch.rand(2, channels, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize(
    ("depth", "last", "zero_init"), [(18, "bn2", True), (18, "bn2", False), (50, "bn3", True)]
)
def test_residual_branches_start_at_zero_if_asked(depth, last, zero_init):
    encoder = ResNet(depth, zero_init=zero_init)
    weights = [p for name, p in encoder.named_parameters() if name.endswith(f".{last}.weight")]
    assert len(weights) == {18: 8, 50: 16}[depth]
    assert all(bool((weight == (0 if zero_init else 1)).all()) for weight in weights)
    others = [m.weight for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(bool((weight == 0).all()) for weight in others) == len(weights) * zero_init


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, 101, 152, 200, got 20"):
        ResNet(20)
    with pytest.raises(ValueError, match="stem must be 'imagenet' or 'cifar', got 'tiny'"):
        ResNet(stem="tiny")
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        ResNet(channels=0)


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())
