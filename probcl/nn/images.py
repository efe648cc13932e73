"""What every encoder does first: check the images and standardise their channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "LibraryModel", "Normalize", "check_size"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Standardise each channel of images, ``(images - mean) / std``.

    It adds nothing to the state dict of its encoder.

    Args:
        encoder: Name of the encoder, for messages.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        channels: The encoder's argument of this name, None if it has none. If ``mean`` has another
            number of channels, each is standardised by the average.

    Example:
        >>> Normalize("Mine", mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 1, 2))
        tensor([[[[2., 2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if channels not in (None, len(mean)):
            mean, std = ([sum(values) / len(values)] * channels for values in (mean, std))
        self.encoder = encoder
        self.any_channels = channels is not None
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardise images ``(N, channels, height, width)``, floats in [0, 1].

        Raises:
            ValueError: If the images have another shape, other channels or are not floats.
        """
        if images.dim() != 4:
            raise ValueError(
                "images must be of shape (N, channels, height, width), got shape "
                f"{tuple(images.shape)}."
            )
        if images.shape[1] != len(self.mean):
            self._refuse_channels(images.shape[1])
        if not images.is_floating_point():
            raise ValueError(
                f"images must be floats in [0, 1], got {images.dtype}: convert bytes by "
                "images.float() / 255."
            )
        return (images - self.mean) / self.std

    def _refuse_channels(self, got: int) -> None:
        expected = len(self.mean)
        fixes = [f"set the encoder's channels to {got}"] * self.any_channels
        if got == 1:
            fixes.append(f"set the data's channels to {expected} to repeat it")
        raise ValueError(
            f"the images have {got} channel{'s' * (got != 1)}, the encoder {self.encoder} takes "
            f"{expected}: {', or '.join(fixes) or 'choose an encoder with an argument channels'}."
        )


class LibraryModel(nn.Module):
    """A network of a library, for images whose channels are standardised first.

    Args:
        name: Of the network, for messages.
        network: Images to features ``(N, F)``.
        normalize: Standardises the channels.
        min_size: The smallest height and width.
        max_size: The largest; None where there is none.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        normalize: Normalize,
        min_size: int,
        max_size: int | None,
    ) -> None:
        super().__init__()
        self.network, self.normalize, self.name = network, normalize, name
        self.min_size, self.max_size = min_size, max_size

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, height, width)``, floats in [0, 1], to features ``(N, F)``.

        Raises:
            ValueError: If the images have other channels or a wrong size, or are not floats.
        """
        images = self.normalize(images)
        check_size(images, self.name, "resize the images", self.min_size, self.max_size)
        return self.network(images)


def check_size(
    images: Tensor, encoder: str, fix: str, smallest: int, largest: int | None = None
) -> None:
    """Raise ``ValueError``, with the fix, unless height and width are in an encoder's range."""
    height, width = images.shape[-2:]
    if min(height, width) < smallest or (largest is not None and max(height, width) > largest):
        size = f"{smallest} x {smallest}"
        if largest is None:
            size = f"at least {size}"
        elif largest > smallest:
            size = f"from {size} to {largest} x {largest}"
        raise ValueError(
            f"the images are {height} x {width}, the encoder {encoder} takes {size}: {fix}."
        )
