"""Whole augmentations: a crop, and what happens to its pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probcl.data.augment.colour import ColorJitter, GaussianBlur, RandomGrayscale
from probcl.data.augment.crop import RandomResizedCrop
from probcl.data.augment.draws import as_float
from probcl.data.augment.policies import AutoAugmentPolicy, Policy, RandAugmentPolicy
from probcl.memory import keep_freed_memory

__all__ = ["Augmentation", "AutoAugment", "MultiCrop", "SimAugment", "StackedRandAugment"]

# Images that a CPU transforms at once, so that what lies between two steps stays in its cache.
_BLOCK = 256


class Augmentation(nn.Module):
    """Augment a batch of images on their device, each image by its own draw.

    Images that lie in memory go through both parts in batches. Of images in files, only the crop
    is made one by one, by the workers that read them; the changes follow in batches.

    Args:
        crop: Module that changes the geometry, such as ``RandomResizedCrop``.
        changes: Modules that change the pixels, applied one after the other.

    Example:
        >>> from probcl.data import ColorJitter, RandomResizedCrop
        >>> augment = Augmentation(RandomResizedCrop(8), [ColorJitter()])
        >>> augment(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(self, crop: nn.Module, changes: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.crop = crop
        self.changes = nn.Sequential(*changes)

    def crops(self, views: int) -> list[nn.Module]:
        """Return the crop of each of ``views`` views of an image."""
        return [self.crop] * views

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, channels, h, w)``, in [0, 1] or 0..255, to a view of each, in [0, 1]."""
        return self.view(images, self.crop)

    def view(self, images: Tensor, crop: nn.Module | None = None) -> Tensor:
        """Return a view of each image by one of the ``crops``; by none if they are cropped."""
        blocks = (images,)
        if images.device.type == "cpu":
            keep_freed_memory()
            blocks = images.split(_BLOCK)
        floats = map(as_float, blocks)
        views = [self.changes(crop(block) if crop else block) for block in floats]
        return torch.cat(views) if len(views) > 1 else views[0]


class SimAugment(Augmentation):
    """SimCLR's augmentation: crop, flip, jitter of the colours and loss of colour; perhaps blur.

    Args:
        size: Height and width of a view in pixels.
        scale: Smallest and largest area of the crop, as shares of the image's.
        strength: Strength of the jitter: 0.5 for brightness, contrast and saturation up to 0.4
            and hue up to 0.1, 1 for twice as much.
        grayscale: Probability of the loss of colour.
        blur: Probability of a blur; 0.5 for ImageNet, 0 for images of 32 pixels.
        flip: Probability of a flip left to right.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations, Appendix A. https://arxiv.org/abs/2002.05709

    Example:
        >>> SimAugment(8)(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        size: int = 32,
        scale: tuple[float, float] = (0.2, 1.0),
        strength: float = 0.5,
        grayscale: float = 0.2,
        blur: float = 0.0,
        flip: float = 0.5,
    ) -> None:
        changes: list[nn.Module] = [_jitter(strength), RandomGrayscale(grayscale)]
        if blur:
            changes.append(GaussianBlur(_blur_range(size), blur))
        super().__init__(RandomResizedCrop(size, scale, flip=flip), changes)


class AutoAugment(Augmentation):
    """Crop, flip, and a pair of the operations that AutoAugment found, by ``AutoAugmentPolicy``.

    Args:
        size: Height and width of a view in pixels.
        scale: As for ``SimAugment``.
        policy: ``"imagenet"`` or ``"cifar10"``, the data set that the pairs were found on.
        flip: Probability of a flip left to right.
    """

    def __init__(
        self,
        size: int = 32,
        scale: tuple[float, float] = (0.2, 1.0),
        policy: Policy = "imagenet",
        flip: float = 0.5,
    ) -> None:
        super().__init__(RandomResizedCrop(size, scale, flip=flip), [AutoAugmentPolicy(policy)])


class StackedRandAugment(Augmentation):
    """Crop, flip, jitter of the colours, blur, RandAugment and loss of colour, one on the other.

    Args:
        size: Height and width of a view in pixels.
        scale: As for ``SimAugment``.
        strength: Strength of the jitter, as for ``SimAugment``.
        num_ops: Number of RandAugment's operations for an image.
        magnitude: Their strength, from 0 to 30.
        grayscale: Probability of the loss of colour.
        blur: Probability of a blur, whose width follows the size of the view: at 32 pixels there
            is hardly any.
        flip: Probability of a flip left to right.

    References:
        Tian et al. (2020), What Makes for Good Views for Contrastive Learning?
        https://arxiv.org/abs/2005.10243
    """

    def __init__(
        self,
        size: int = 32,
        scale: tuple[float, float] = (0.2, 1.0),
        strength: float = 1.0,
        num_ops: int = 2,
        magnitude: float = 9,
        grayscale: float = 0.2,
        blur: float = 0.5,
        flip: float = 0.5,
    ) -> None:
        changes = [
            _jitter(strength),
            GaussianBlur(_blur_range(size), blur),
            RandAugmentPolicy(num_ops, magnitude),
            RandomGrayscale(grayscale),
        ]
        super().__init__(RandomResizedCrop(size, scale, flip=flip), changes)


class MultiCrop(Augmentation):
    """Several crops of each image, of which the later ones are smaller, as SwAV takes them.

    Args:
        sizes: Height and width of the views of each kind in pixels.
        counts: Number of views of each kind.
        scales: Smallest and largest area of the crops of each kind, as shares of the image's.
        changes: Modules that change the pixels; by default SimCLR's jitter and loss of colour.

    Raises:
        ValueError: If the three do not have the same length or a count is not positive.

    References:
        Caron et al. (2020), Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments. https://arxiv.org/abs/2006.09882

    Example:
        >>> augment = MultiCrop(sizes=(8, 4), counts=(2, 3))
        >>> images = torch.rand(5, 3, 16, 16)
        >>> [tuple(augment.view(images, crop).shape[-2:]) for crop in augment.crops(0)]
        [(8, 8), (8, 8), (4, 4), (4, 4), (4, 4)]
    """

    def __init__(
        self,
        sizes: Sequence[int] = (224, 96),
        counts: Sequence[int] = (2, 6),
        scales: Sequence[tuple[float, float]] = ((0.14, 1.0), (0.05, 0.14)),
        changes: Sequence[nn.Module] | None = None,
    ) -> None:
        if not len(sizes) == len(counts) == len(scales) > 0 or min(counts) < 1:
            raise ValueError(
                "sizes, counts and scales must have an entry for each kind of view, and counts be "
                f"at least 1, got {list(sizes)}, {list(counts)} and {list(scales)}."
            )
        kinds = [RandomResizedCrop(size, scale) for size, scale in zip(sizes, scales, strict=True)]
        super().__init__(
            kinds[0], [_jitter(1.0), RandomGrayscale()] if changes is None else changes
        )
        self.kinds = nn.ModuleList(kinds)
        self.counts = tuple(counts)

    def crops(self, views: int) -> list[nn.Module]:
        """Return the crop of each view; their number is that of ``counts``, not ``views``."""
        pairs = zip(self.kinds, self.counts, strict=True)
        return [kind for kind, count in pairs for _ in range(count)]


def _jitter(strength: float) -> ColorJitter:
    return ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)


def _blur_range(size: int) -> tuple[float, float]:
    """Return SimCLR's widths of the blur, 0.1 to 2 pixels of 224, and in proportion for others."""
    return 0.1 * size / 224, 2.0 * size / 224
