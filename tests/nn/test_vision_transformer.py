"""Vision transformers against torchvision's own."""

import pytest
import torch
from torch import nn
from torchvision import models, transforms
from torchvision.models import ViT_B_16_Weights

from probcl.nn import VisionTransformer
from probcl.nn.images import IMAGENET_MEAN, IMAGENET_STD


def test_it_is_torchvisions():
    reference = models.VisionTransformer(32, 8, 12, 6, 384, 1536).eval()
    encoder = VisionTransformer(image_size=32, patch_size=8).eval()
    incompatible = encoder.load_state_dict(reference.state_dict(), strict=False)
    assert not incompatible.missing_keys
    assert set(incompatible.unexpected_keys) == {"heads.head.weight", "heads.head.bias"}
    reference.heads = nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    expected = reference(transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(images))
    assert expected.shape == (2, 384)
    torch.testing.assert_close(encoder(images), expected)


def test_the_base_one_has_the_layers_of_torchvisions():
    with torch.device("meta"):
        encoder, reference = VisionTransformer("base"), models.vit_b_16()
    expected = {
        name: tensor.shape
        for name, tensor in reference.state_dict().items()
        if not name.startswith("heads.")
    }
    assert {name: tensor.shape for name, tensor in encoder.state_dict().items()} == expected
    heads, expected_heads = (
        [m.num_heads for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
        for module in (encoder, reference)
    )
    assert heads == expected_heads == [12] * 12


def test_the_features_are_the_class_token():
    encoder = VisionTransformer(image_size=16, patch_size=8).eval()
    tokens = []
    encoder.encoder.register_forward_hook(lambda _, __, output: tokens.append(output))
    features = encoder(torch.rand(2, 3, 16, 16))
    assert tokens[0].shape == (2, 5, 384)
    assert torch.equal(features, tokens[0][:, 0])


def test_numbers_of_weights_are_those_published():
    with torch.device("meta"):
        base, small = VisionTransformer("base"), VisionTransformer("small")
    assert _count(base) == ViT_B_16_Weights.DEFAULT.meta["num_params"] - 769 * 1000
    # DeiT-S: 22 million with a classifier. By hand: patches, class token, positions, then layers of
    # attention (4 square maps), perceptron (2 maps of 4 times the width) and 2 normalisations.
    d = 384
    layer = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d
    expected = (3 * 16 * 16 * d + d) + d + (14 * 14 + 1) * d + 12 * layer + 2 * d
    assert _count(small) == expected
    assert round((expected + (d + 1) * 1000) / 1e6) == 22


def test_images_of_another_size_are_named():
    encoder = VisionTransformer(image_size=16, patch_size=8)
    for height, width in ((32, 32), (16, 8), (24, 16)):
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
            encoder(torch.rand(1, 3, height, width))
        assert str(raised.value) == (
            f"the images are {height} x {width}, the encoder VisionTransformer takes 16 x 16: set "
            "image_size to theirs, or resize the images."
        )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="patch_size must divide image_size = 32, got 12: set"):
        VisionTransformer(image_size=32, patch_size=12)
    for patch_size in (0, -4, 64):
        with pytest.raises(ValueError, match=f"image_size = 32, got {patch_size}: set another"):
            VisionTransformer(image_size=32, patch_size=patch_size)
    with pytest.raises(ValueError, match="size must be 'small' or 'base', got 'huge'"):
        VisionTransformer("huge")


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())
