"""Any image model of timm as an encoder."""

from difflib import get_close_matches
from types import ModuleType
from typing import Any

from probcl.nn.images import LibraryModel, Normalize

__all__ = ["TimmModel"]


class TimmModel(LibraryModel):
    """An image model of timm (extra ``encoders``), with or without weights, without its classifier.

    Images are standardised inside, by the mean and standard deviation that the weights were trained
    with, or by ImageNet's. A model of one image size takes the one that it was trained with.

    Args:
        name: Name of the model, one of ``timm.list_models()``.
        weights: ``"DEFAULT"`` or the tag of other weights of the model, such as ``"a1_in1k"`` of
            ``resnet18.a1_in1k``, which timm downloads; None to start at random.

    Raises:
        ValueError: If timm is not installed, or there is no such model, or no such weights of it.

    References:
        Wightman (2019), PyTorch Image Models. https://github.com/huggingface/pytorch-image-models

    Example:
        >>> import torch
        >>> TimmModel("resnet18")(torch.rand(2, 3, 32, 32)).shape  # doctest: +SKIP
        torch.Size([2, 512])
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        try:
            import timm
        except ImportError as error:
            raise ValueError("TimmModel needs timm: pip install 'probcl[encoders]'.") from error
        _check_name(timm, name)
        tag = _find_tag(timm, name, weights)
        whole = f"{name}.{tag}" if tag else name
        network = timm.create_model(whole, pretrained=tag is not None, num_classes=0)
        about: Any = network.pretrained_cfg
        own = (about["mean"], about["std"]) if tag else ()
        super().__init__(name, network, Normalize(name, *own), *_sizes(about))


def _sizes(about: dict) -> tuple[int, int | None]:
    """Return the smallest and, if there is one, the largest height and width of images."""
    if about.get("fixed_input_size"):
        return min(about["input_size"][1:]), max(about["input_size"][1:])
    return min((about.get("min_input_size") or (3, 1, 1))[1:]), None


def _check_name(timm: ModuleType, name: str) -> None:
    names = timm.list_models()
    if name in names:
        return
    model, _, tag = name.partition(".")
    close = " or ".join(get_close_matches(name.lower(), names))
    fix = f"did you mean {close}?" if close else "see timm.list_models()."
    if model in names:
        fix = f"give {model}, and {tag!r} as weights."
    raise ValueError(f"name must be a model of timm, got {name!r}: {fix}")


def _find_tag(timm: ModuleType, name: str, weights: str | None) -> str | None:
    """Return the tag of the weights, None without any."""
    if weights is None:
        return None
    tags = [whole.partition(".")[2] for whole in timm.list_pretrained(f"{name}.*")]
    if tags and weights == "DEFAULT":
        return timm.get_pretrained_cfg(name).tag
    if weights not in tags:
        choices = f"None, DEFAULT or one of {', '.join(tags)}" if tags else "None, there are none"
        raise ValueError(f"weights of {name} must be {choices}, got {weights!r}.")
    return weights
