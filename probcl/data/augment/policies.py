"""AutoAugment and RandAugment of whole batches: each image its own operations."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import atan, degrees
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms.v2 import functional

from probcl.checks import check_channels, check_choice, check_count
from probcl.data.augment.draws import as_float, sent

__all__ = ["AutoAugmentPolicy", "Operation", "Policy", "RandAugmentPolicy", "apply_operations"]

Policy = Literal["imagenet", "cifar10"]


class Operation(NamedTuple):
    """An operation by name, and its strength from -1 to 1, the sign its direction."""

    name: str
    level: float


class AutoAugmentPolicy(nn.Module):
    """Apply to each image one of the 25 pairs of operations that AutoAugment found.

    Each operation of a pair is applied with a probability and at a strength that belong to it.

    Args:
        policy: ``"imagenet"`` or ``"cifar10"``, the data set that the pairs were found on.

    Raises:
        ValueError: If ``policy`` is none of these.

    References:
        Cubuk et al. (2019), AutoAugment: Learning Augmentation Policies from Data, Tables 7 and 9.
        https://arxiv.org/abs/1805.09501
    """

    def __init__(self, policy: Policy = "imagenet") -> None:
        super().__init__()
        check_choice("policy", policy, Policy)
        table = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
        #: Pairs of operations, each with its probability and its strength from 0 to 1.
        self.pairs = [[(name, p, (ninths or 0) / 9) for name, p, ninths in pair] for pair in table]

    def forward(self, images: Tensor) -> Tensor:
        """Change images ``(N, channels, height, width)`` of one or three channels."""
        chosen = torch.randint(len(self.pairs), (len(images),)).tolist()
        for step in (0, 1):
            luck, signs = torch.rand(len(images)).tolist(), _signs(len(images))
            operations: list[Operation | None] = []
            for pair, draw, sign in zip(chosen, luck, signs, strict=True):
                name, probability, level = self.pairs[pair][step]
                operations.append(_signed(name, level, sign) if draw < probability else None)
            images = apply_operations(images, operations)
        return images


class RandAugmentPolicy(nn.Module):
    """Apply to each image operations drawn at random, all of one strength.

    Args:
        num_ops: Number of operations for an image, at least 0.
        magnitude: Strength, from 0 to 30.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Cubuk et al. (2020), RandAugment: Practical Automated Data Augmentation with a Reduced
        Search Space. https://arxiv.org/abs/1909.13719
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9) -> None:
        super().__init__()
        if not 0 <= magnitude <= _STRONGEST:
            raise ValueError(f"magnitude must lie between 0 and {_STRONGEST}, got {magnitude}.")
        self.num_ops = check_count("num_ops", num_ops, least=0)
        self.level = magnitude / _STRONGEST

    def forward(self, images: Tensor) -> Tensor:
        """Change images ``(N, channels, height, width)`` of one or three channels."""
        for _ in range(self.num_ops):
            names = torch.randint(len(_RANDAUGMENT), (len(images),)).tolist()
            draws = zip(names, _signs(len(images)), strict=True)
            operations = [_signed(_RANDAUGMENT[name], self.level, sign) for name, sign in draws]
            images = apply_operations(images, operations)
        return images


def apply_operations(images: Tensor, operations: Sequence[Operation | None]) -> Tensor:
    """Apply torchvision's operations on 256 levels, None for none; like ones go together."""
    groups: dict[Operation, list[int]] = defaultdict(list)
    for row, operation in enumerate(operations):
        if operation is not None:
            groups[operation].append(row)
    levels = check_channels(images)
    if images.is_floating_point():
        levels = (images * 255).round_().to(torch.uint8)
    changed = levels.clone()
    rows = torch.tensor([row for chosen in groups.values() for row in chosen], dtype=torch.long)
    parts = sent(rows, images).split([len(chosen) for chosen in groups.values()])
    for (name, level), chosen in zip(groups, parts, strict=True):
        changed.index_copy_(0, chosen, _OPERATIONS[name](levels.index_select(0, chosen), level))
    return as_float(changed).to(images) if images.is_floating_point() else changed


def _signs(count: int) -> list[int]:
    return (2 * torch.randint(2, (count,)) - 1).tolist()


def _signed(name: str, level: float, sign: int) -> Operation:
    return Operation(name, sign * level if name in _TWO_WAYS else level)


def _shear(images: Tensor, horizontal: float, vertical: float) -> Tensor:
    angles = [degrees(atan(horizontal)), degrees(atan(vertical))]
    return functional.affine(
        images, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0]
    )


def _translate(images: Tensor, right: float, down: float) -> Tensor:
    shift = [int(right * images.shape[-1]), int(down * images.shape[-2])]
    return functional.affine(images, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])


#: Operations of images ``(N, channels, height, width)`` in 0..255 at a level, by name.
_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda x, level: x,
    "ShearX": lambda x, level: _shear(x, 0.3 * level, 0.0),
    "ShearY": lambda x, level: _shear(x, 0.0, 0.3 * level),
    "TranslateX": lambda x, level: _translate(x, 150 / 331 * level, 0.0),
    "TranslateY": lambda x, level: _translate(x, 0.0, 150 / 331 * level),
    "Rotate": lambda x, level: functional.rotate(x, 30 * level),
    "Brightness": lambda x, level: functional.adjust_brightness(x, 1 + 0.9 * level),
    "Color": lambda x, level: functional.adjust_saturation(x, 1 + 0.9 * level),
    "Contrast": lambda x, level: functional.adjust_contrast(x, 1 + 0.9 * level),
    "Sharpness": lambda x, level: functional.adjust_sharpness(x, 1 + 0.9 * level),
    "Posterize": lambda x, level: functional.posterize(x, round(8 - 4 * level)),
    "Solarize": lambda x, level: functional.solarize(x, 255 * (1 - level)),
    "AutoContrast": lambda x, level: functional.autocontrast(x),
    "Equalize": lambda x, level: functional.equalize(x),
    "Invert": lambda x, level: functional.invert(x),
}

_TWO_WAYS = {
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Color", "Contrast", "Sharpness"),
}

_RANDAUGMENT = [name for name in _OPERATIONS if name != "Invert"]

_STRONGEST = 30  # the scale of RandAugment's magnitudes
