"""Any classification model of torchvision as an encoder."""

from difflib import get_close_matches

from torch import nn
from torchvision import models

from probcl.nn.images import LibraryModel, Normalize

__all__ = ["TorchvisionModel"]

# The smallest images of families that take smaller ones than torchvision's ``min_size``.
_TAKEN = {"swin": 4, "efficientnet_v2": 1}


class TorchvisionModel(LibraryModel):
    """A classification model of torchvision, with or without weights, without its last layer.

    Images are standardised inside, by the mean and standard deviation that the weights were trained
    with, or by ImageNet's. Auxiliary classifiers are off; all else, such as dropout, is as it was.

    Args:
        name: Name of the model, one of ``torchvision.models.list_models(torchvision.models)``.
        weights: ``"DEFAULT"`` or the name of other weights of the model, which torchvision
            downloads; None to start at random.

    Raises:
        ValueError: If there is no such model, or no such weights of the whole model.

    References:
        TorchVision maintainers and contributors (2016), TorchVision: PyTorch's Computer Vision
        library. https://docs.pytorch.org/vision/stable/models.html

    Example:
        >>> import torch
        >>> TorchvisionModel("squeezenet1_1")(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        _check_name(name)
        chosen = _find_weights(name, weights)
        # These two warn unless they are told to start from initial weights of their own.
        own = {} if chosen or name not in ("googlenet", "inception_v3") else {"init_weights": True}
        network = models.get_model(name, weights=chosen, **own)
        for auxiliary in ("AuxLogits", "aux1", "aux2"):
            if hasattr(network, auxiliary):
                network.aux_logits = False
                setattr(network, auxiliary, None)
        _remove_classifier(network)
        preset = chosen.transforms() if chosen else None
        normalize = Normalize(name, preset.mean, preset.std) if preset else Normalize(name)
        super().__init__(name, network, normalize, *_sizes(name, network))


def _sizes(name: str, network: nn.Module) -> tuple[int, int | None]:
    """Return the smallest and, if there is one, the largest height and width of images."""
    size = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
    if name.startswith(("vit", "maxvit")):
        size = getattr(network, "image_size", size)
        return size, size
    taken = (least for family, least in _TAKEN.items() if name.startswith(family))
    return next(taken, size), None


def _check_name(name: str) -> None:
    names = models.list_models(module=models)
    if name not in names:
        close = " or ".join(get_close_matches(name.lower(), names))
        fix = f"did you mean {close}?" if close else "see torchvision.models.list_models()."
        raise ValueError(f"name must be a classification model of torchvision, got {name!r}: {fix}")


def _find_weights(name: str, weights: str | None) -> models.WeightsEnum | None:
    choices = models.get_model_weights(name)
    # Weights without categories are not of the whole model: the layers after them hold no numbers.
    whole = [choice for choice in choices if choice.meta["categories"] is not None]
    try:
        chosen = choices.verify(weights)
    except KeyError:
        chosen = weights
    if chosen is not None and chosen not in whole:
        raise ValueError(
            f"weights of {name} must be None, DEFAULT or one of "
            f"{', '.join(choice.name for choice in whole)}, got {weights!r}."
        )
    return chosen


def _remove_classifier(network: nn.Module) -> None:
    """Put an identity in the place of the last linear layer, or of the last convolution."""
    layers = dict(network.named_modules())
    for kind in (nn.Linear, nn.Conv2d):  # SqueezeNet ends in a convolution
        names = [name for name, layer in layers.items() if isinstance(layer, kind)]
        if names:
            network.set_submodule(names[-1], nn.Identity())
            return
