"""What holds for every encoder, however it is built."""

import copy
import io
import pickle
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import transforms

from probcl.nn import ProjectedNormalHead, ResNet, TorchvisionModel, VisionTransformer
from probcl.nn.images import IMAGENET_MEAN, IMAGENET_STD, Normalize
from probcl.programs import VSimCLR

ENCODERS = {
    "ResNet": (lambda: ResNet(18, stem="cifar", zero_init=False), 512),
    "VisionTransformer": (lambda: VisionTransformer(image_size=24, patch_size=8), 384),
    "TorchvisionModel": (lambda: TorchvisionModel("squeezenet1_1"), 512),
}
IMAGES = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@cache
def _built(name):
    """Return an encoder, its statistics of batch normalisation moved, and its features."""
    encoder = ENCODERS[name][0]()
    with torch.no_grad():
        encoder(IMAGES)
        return encoder, encoder.eval()(IMAGES)


@pytest.fixture(params=ENCODERS)
def name(request):
    return request.param


@pytest.fixture
def encoder(name):
    return copy.deepcopy(_built(name)[0])


@pytest.fixture
def features(name):
    return _built(name)[1]


def test_features_have_the_documented_shape(name, features):
    assert features.shape == (4, ENCODERS[name][1])
    assert not torch.allclose(features[0], features[1])


def test_every_weight_has_a_gradient(encoder):
    features = encoder.train()(IMAGES)
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_images_are_standardised_inside(encoder, features):
    standardised = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(IMAGES)
    encoder.normalize = nn.Identity()
    torch.testing.assert_close(encoder(standardised), features)


def test_double_precision(encoder, features):
    double = encoder.double()(IMAGES.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), features, rtol=1e-3, atol=1e-4)


def test_mixed_precision(encoder, features):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(IMAGES)
    torch.testing.assert_close(mixed.float(), features, rtol=0.05, atol=0.05 * features.std())


def test_channels_last(encoder, features):
    encoder.to(memory_format=torch.channels_last)
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    assert encoder.normalize(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(encoder(images), features, rtol=1e-4, atol=1e-5)


def test_compiled_in_one_graph():
    """Images are checked and standardised in it; the rest of each encoder is torchvision's."""
    built, features = _built("TorchvisionModel")
    encoder = copy.deepcopy(built)
    torch.compiler.reset()
    encoder.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(encoder(IMAGES), features)
    encoder.compile(backend="eager")
    with pytest.raises(ValueError, match=r"the images have 1 channel, the encoder \w+ takes 3"):
        encoder(IMAGES[:, :1])


def test_the_state_dict_holds_weights_and_nothing_else(encoder):
    buffers = {name for name, _ in encoder.named_buffers() if not name.startswith("normalize.")}
    expected = {name for name, _ in encoder.named_parameters(remove_duplicate=False)} | buffers
    assert set(encoder.state_dict()) == expected
    assert not any("normalize" in name for name in expected)


def test_copies_agree(encoder, features):
    stored = io.BytesIO()
    torch.save(encoder.state_dict(), stored)
    stored.seek(0)
    loaded = copy.deepcopy(encoder)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), loaded):
        with torch.no_grad():
            assert torch.equal(twin(IMAGES), features)


def test_a_program_takes_its_sizes_from_an_image(encoder, features):
    program = VSimCLR(encoder, ProjectedNormalHead(5, hidden=None))
    program.materialize(IMAGES)
    assert program(IMAGES).batch_shape == (4,)
    assert program.posterior_head.loc[0].in_features == features.shape[1]


def test_images_that_do_not_fit_are_named(encoder):
    with pytest.raises(ValueError, match=r"images must be of shape.*got shape \(3, 24, 24\)"):
        encoder(IMAGES[0])
    with pytest.raises(ValueError, match=r"floats in \[0, 1\], got torch\.uint8: convert bytes by"):
        encoder((IMAGES * 255).byte())
    with pytest.raises(ValueError, match=r"have 4 channels, the encoder \w+ takes 3: "):
        encoder(torch.rand(2, 4, 24, 24))


@pytest.mark.parametrize(
    ("normalize", "channels", "message"),
    [
        (
            Normalize("ResNet", channels=3),
            1,
            "the images have 1 channel, the encoder ResNet takes 3: set "
            "the encoder's channels to 1, or set the data's channels to 3 to repeat it.",
        ),
        (
            Normalize("ResNet", channels=1),
            3,
            "the images have 3 channels, the encoder ResNet takes 1: set "
            "the encoder's channels to 3.",
        ),
        (
            Normalize("VisionTransformer"),
            1,
            "the images have 1 channel, the encoder VisionTransformer takes 3: set "
            "the data's channels to 3 to repeat it.",
        ),
        (
            Normalize("resnet18"),
            4,
            "the images have 4 channels, the encoder resnet18 takes 3: choose an encoder with an "
            "argument channels.",
        ),
    ],
)
def test_the_message_of_wrong_channels_says_what_to_set(normalize, channels, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        normalize(torch.rand(1, channels, 4, 4))
    assert str(raised.value) == message


def test_other_channels_are_standardised_by_the_average():
    normalize = Normalize("ResNet", channels=2)
    assert normalize.mean.flatten().tolist() == pytest.approx([0.449, 0.449])
    assert normalize.std.flatten().tolist() == pytest.approx([0.226, 0.226])
