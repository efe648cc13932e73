"""Every classification model of torchvision as an encoder."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import ResNet18_Weights, regnet
from torchvision.transforms._presets import ImageClassification

from probcl.nn import TorchvisionModel

NAMES = models.list_models(module=models)
#: The smallest of each family, and its number of features as its paper or torchvision has it.
FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "efficientnet_v2_s": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "maxvit_t": 512,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "resnext50_32x4d": 2048,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_0": 512,
    "swin_t": 768,
    "swin_v2_t": 768,
    "vgg11": 4096,
    "vit_b_16": 768,
    "wide_resnet50_2": 2048,
}


@pytest.fixture
def meta(monkeypatch):
    """Build modules without memory; RegNet reads values of tensors while it is built."""
    from_init_params = regnet.BlockParams.from_init_params

    def on_cpu(*args, **kwargs):
        with torch.device("cpu"):
            return from_init_params(*args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    "name",
    [*FAMILIES, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in FAMILIES)],
)
def test_every_model_is_left_with_all_but_its_classifiers(meta, monkeypatch, name):
    get_model, whole = models.get_model, {}

    def recorded(*args, **kwargs):
        network = get_model(*args, **kwargs)
        whole.update({key: tensor.shape for key, tensor in network.state_dict().items()})
        return network

    monkeypatch.setattr(models, "get_model", recorded)
    encoder = TorchvisionModel(name)
    left = {key: tensor.shape for key, tensor in encoder.state_dict().items()}
    assert left.items() <= {f"network.{key}": shape for key, shape in whole.items()}.items()
    gone = {key: shape for key, shape in whole.items() if f"network.{key}" not in left}
    auxiliary = {key for key in gone if key.startswith(("AuxLogits.", "aux1.", "aux2."))}
    assert bool(auxiliary) == (name in ("googlenet", "inception_v3"))
    classifier = {key: shape for key, shape in gone.items() if key not in auxiliary}
    assert {key.rpartition(".")[2] for key in classifier} | {"bias"} == {"weight", "bias"}
    assert all(shape[0] == 1000 for shape in classifier.values())
    features = encoder(torch.rand(2, 3, encoder.min_size, encoder.min_size))
    assert features.shape == (2, FAMILIES.get(name, features.shape[1]))


@pytest.mark.parametrize(("name", "features"), [("googlenet", 1024), ("inception_v3", 2048)])
def test_auxiliary_classifiers_of_weights_are_off(meta, monkeypatch, name, features):
    whole = models.get_model(name, init_weights=False).state_dict()
    choices = models.get_model_weights(name)
    monkeypatch.setattr(choices, "get_state_dict", lambda *args, **kwargs: whole)
    encoder = TorchvisionModel(name, "DEFAULT")
    images = torch.rand(2, 3, 75, 75)
    for mode in (True, False):
        assert encoder.train(mode)(images).shape == (2, features)


def test_weights_may_ask_for_larger_images(meta, monkeypatch):
    whole = models.vit_b_16(image_size=384).state_dict()
    monkeypatch.setattr(models.ViT_B_16_Weights, "get_state_dict", lambda *args, **kwargs: whole)
    encoder = TorchvisionModel("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    assert encoder(torch.rand(2, 3, 384, 384)).shape == (2, 768)
    with pytest.raises(ValueError, match="the encoder vit_b_16 takes 384 x 384"):
        encoder(torch.rand(2, 3, 224, 224))


@pytest.mark.parametrize(
    ("name", "size", "takes"),
    [
        ("alexnet", 32, "at least 63 x 63"),
        ("swin_t", 3, "at least 4 x 4"),
        ("vit_b_32", 32, "224 x 224"),
        ("vit_b_32", 256, "224 x 224"),
        ("maxvit_t", 225, "224 x 224"),
    ],
)
def test_images_of_a_size_that_it_does_not_take_are_named(meta, name, size, takes):
    encoder = TorchvisionModel(name)
    message = rf"^the images are {size} x 224, the encoder {name} takes {takes}: resize the images"
    with pytest.raises(ValueError, match=message):
        encoder(torch.rand(2, 3, size, 224))


def test_it_is_torchvisions():
    for name, parts in {"resnet18": ["fc"], "squeezenet1_1": ["classifier.1"]}.items():
        encoder = TorchvisionModel(name).eval()
        reference = models.get_model(name).eval()
        reference.load_state_dict(encoder.network.state_dict(), strict=False)
        for part in parts:
            reference.set_submodule(part, nn.Identity())
        images = torch.rand(2, 3, 32, 32)
        expected = reference(ImageClassification(crop_size=32, resize_size=32)(images))
        torch.testing.assert_close(encoder(images), expected)


@pytest.mark.parametrize("weights", ["DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_weights_bring_their_own_mean_and_standard_deviation(monkeypatch, weights):
    reference = models.resnet18().eval()
    preset = partial(
        ImageClassification, crop_size=32, resize_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "transforms", preset)
    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda *args, **kwargs: reference.state_dict()
    )
    encoder = TorchvisionModel("resnet18", weights).eval()
    reference.fc = nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), reference(preset()(images)))


def test_bad_names_are_named():
    with pytest.raises(ValueError, match=r"torchvision, got 'ResNet-18': did you mean resnet18 or"):
        TorchvisionModel("ResNet-18")
    with pytest.raises(ValueError, match=r"got 'xyz': see torchvision\.models\.list_models\(\)"):
        TorchvisionModel("xyz")
    with pytest.raises(ValueError, match="got 'fcn_resnet50'"):  # for segmentation
        TorchvisionModel("fcn_resnet50")
    message = "weights of resnet18 must be None, DEFAULT or one of IMAGENET1K_V1, got 'V7'"
    with pytest.raises(ValueError, match=message):
        TorchvisionModel("resnet18", "V7")
    with pytest.raises(ValueError, match="one of IMAGENET1K_V1, got 'IMAGENET1K_FEATURES'"):
        TorchvisionModel("vgg16", "IMAGENET1K_FEATURES")
