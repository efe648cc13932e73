"""Models of timm as encoders."""

import sys

import pytest
import torch

from probcl.nn import TimmModel
from probcl.nn.images import IMAGENET_MEAN, IMAGENET_STD

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
#: Small ones of different families, the sizes that they take, and their number of features.
FAMILIES = {
    "resnet18": (1, None, 512),
    "mobilenetv3_small_050": (1, None, 1024),
    "test_efficientnet": (1, None, 256),
    "vit_tiny_patch16_224": (224, 224, 192),
    "vit_small_patch14_dinov2": (518, 518, 384),
    "halonet26t": (256, None, 2048),
    "vgg11": (1, None, 4096),
}


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="needs timm: pip install 'probcl[encoders]'")


@pytest.fixture
def downloaded(timm, monkeypatch):
    """Give the weights of a model that starts at random in the place of those on the hub."""
    reference = timm.create_model("resnet18").eval()

    def load(*args, **kwargs):
        return {name: tensor.clone() for name, tensor in reference.state_dict().items()}

    for source in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{source}", load)
    return reference


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_and_features(timm, name):
    smallest, largest, features = FAMILIES[name]
    with torch.device("meta"):
        encoder = TimmModel(name)
        size = largest or max(smallest, 64)
        assert (encoder.min_size, encoder.max_size) == (smallest, largest)
        assert encoder(torch.rand(2, 3, size, size)).shape == (2, features)
        if largest:
            message = rf"^the images are {size} x {size + 1}, the encoder {name} takes {size} x "
            with pytest.raises(ValueError, match=message):
                encoder(torch.rand(2, 3, size, size + 1))


def test_it_is_timms_without_the_classifier(timm):
    encoder = TimmModel("resnet18").eval()
    reference = timm.create_model("resnet18").eval()
    assert not any("fc" in name for name in encoder.state_dict())
    reference.load_state_dict(encoder.network.state_dict(), strict=False)
    reference.fc = torch.nn.Identity()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(encoder(IMAGES), reference((IMAGES - mean) / std))


@pytest.mark.parametrize("weights", ["DEFAULT", "tv_in1k"])
def test_weights_bring_their_own_mean_and_standard_deviation(
    timm, downloaded, monkeypatch, weights
):
    create = timm.create_model
    asked = []

    def created(name, **kwargs):
        asked.append(name)
        return create(
            name, pretrained_cfg_overlay={"mean": (0.1,) * 3, "std": (0.4,) * 3}, **kwargs
        )

    monkeypatch.setattr(timm, "create_model", created)
    encoder = TimmModel("resnet18", weights).eval()
    assert asked == [f"resnet18.{'a1_in1k' if weights == 'DEFAULT' else weights}"]
    downloaded.fc = torch.nn.Identity()
    torch.testing.assert_close(encoder(IMAGES), downloaded((IMAGES - 0.1) / 0.4))


def test_bad_names_are_named(timm):
    with pytest.raises(
        ValueError, match=r"a model of timm, got 'ResNet-18': did you mean resnet18"
    ):
        TimmModel("ResNet-18")
    with pytest.raises(ValueError, match=r"got 'xyzzyx': see timm\.list_models\(\)"):
        TimmModel("xyzzyx")
    with pytest.raises(ValueError, match=r"'resnet18.a1_in1k': give resnet18, and 'a1_in1k' as w"):
        TimmModel("resnet18.a1_in1k")
    with pytest.raises(ValueError, match="got 'hf-hub:some/model'"):  # of anybody
        TimmModel("hf-hub:some/model")
    message = "weights of resnet18 must be None, DEFAULT or one of a1_in1k, .*tv_in1k, got 'V7'"
    with pytest.raises(ValueError, match=message):
        TimmModel("resnet18", "V7")
    with pytest.raises(
        ValueError, match="weights of coatnet_0_224 must be None, there are none, g"
    ):
        TimmModel("coatnet_0_224", "DEFAULT")


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"TimmModel needs timm: pip install 'probcl\[encoders\]'"):
        TimmModel("resnet18")
