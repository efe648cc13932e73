"""Encoders by name: each is what its class or function gives, and all else is one sentence."""

import sys

import pytest
import torch

from probcl.nn import ConvNet, TorchvisionModel, encoder_by_name
from probcl.trust import check_trusted

MINE = """
from torch import nn

def encoder():
    return nn.Flatten()

def needs(size):
    return nn.Flatten()

def number():
    return 3

value = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import no_such_module_of_mine")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


def test_of_torchvision():
    encoder = encoder_by_name("torchvision:squeezenet1_1")
    assert isinstance(encoder, TorchvisionModel) and encoder.name == "squeezenet1_1"
    with pytest.raises(ValueError, match=r"weights of squeezenet1_1 must be None, .*, got 'V7'"):
        encoder_by_name("torchvision:squeezenet1_1:V7")


def test_of_timm():
    pytest.importorskip("timm", reason="needs timm: pip install 'probcl[encoders]'")
    encoder = encoder_by_name("timm:test_efficientnet")
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    with pytest.raises(ValueError, match=r"weights of test_efficientnet must be .*, got 'V7'"):
        encoder_by_name("timm:test_efficientnet:V7")


def test_by_import_path():
    assert isinstance(encoder_by_name("mine.encoder"), torch.nn.Flatten)
    assert isinstance(encoder_by_name("probcl.nn.ConvNet"), ConvNet)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"^encoder must be timm:NAME, .* got 'resnet18'"),
        ("tim:resnet18", "got 'tim:resnet18'"),
        ("timm:", "got 'timm:'"),
        ("timm:a:b:c", "got 'timm:a:b:c'"),
        ("", "got ''"),
        ("torchvision:ResNet-18", "did you mean resnet18"),
        ("mine.missing", r"mine.missing cannot be imported \(.*\): check its spelling"),
        ("no_such.encoder", r"no_such.encoder cannot be imported"),
        ("broken.encoder", r"broken.encoder cannot be imported \(No module named 'no_such_module_"),
        ("mine.needs", r"mine.needs cannot be called without arguments \(.*'size'"),
        ("mine.value", r"mine.value cannot be called without arguments"),
        ("mine.number", r"mine.number gives int: make it return a torch.nn.Module"),
    ],
)
def test_bad_names_are_named(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        encoder_by_name(name)
    assert "\n" not in str(caught.value)


def test_strangers_may_name_the_class_but_not_what_imports_by_name():
    encoder = {"class_path": "probcl.nn.TimmModel", "init_args": {"name": "resnet18"}}
    check_trusted({"encoder": encoder}, "config.json")
    with pytest.raises(ValueError, match=r"names probcl\.nn\.encoder_by_name, which is no class"):
        check_trusted({"class_path": "probcl.nn.encoder_by_name"}, "config.json")
