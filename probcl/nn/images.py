"""What every encoder does first: check the images and standardise their channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalize", "check_size", "imagenet_statistics"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Standardise each channel of images, ``(images - mean) / std``.

    It adds nothing to the state dict of its encoder.

    Args:
        encoder: Name of the encoder, for messages.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        any_channels: Whether the encoder has an argument ``channels``.

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
        any_channels: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.any_channels = any_channels
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
            raise ValueError(self._wrong_channels(images.shape[1]))
        if not images.is_floating_point():
            raise ValueError(
                f"images must be floats in [0, 1], got {images.dtype}: convert bytes by "
                "images.float() / 255."
            )
        return (images - self.mean) / self.std

    def _wrong_channels(self, got: int) -> str:
        expected = len(self.mean)
        fixes = [f"set the encoder's channels to {got}"] * self.any_channels
        if got == 1:
            fixes.append(f"set the data's channels to {expected} to repeat it")
        fix = ", or ".join(fixes) or "choose an encoder with an argument channels"
        plural = "" if got == 1 else "s"
        return (
            f"the images have {got} channel{plural}, the encoder {self.encoder} takes "
            f"{expected}: {fix}."
        )


def imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's mean and standard deviation; for other than 3 channels, their average.

    Args:
        channels: Number of channels.

    Example:
        >>> imagenet_statistics(3)[0]
        (0.485, 0.456, 0.406)
        >>> [round(mean, 3) for mean in imagenet_statistics(1)[0]]
        [0.449]
    """
    if channels == len(IMAGENET_MEAN):
        return IMAGENET_MEAN, IMAGENET_STD
    mean, std = (sum(values) / len(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (mean,) * channels, (std,) * channels


def check_size(
    images: Tensor, encoder: str, fix: str, smallest: int, largest: int | None = None
) -> None:
    """Raise ``ValueError`` unless height and width of images are in a range.

    Args:
        images: Shape ``(*, height, width)``.
        encoder: Name of the encoder, for the message.
        fix: What to do about it, for the message.
        smallest: Smallest height and width.
        largest: Largest height and width; None for any.
    """
    height, width = images.shape[-2:]
    if min(height, width) < smallest or (largest is not None and max(height, width) > largest):
        least = "" if largest == smallest else "at least "
        raise ValueError(
            f"the images are {height} x {width}, the encoder {encoder} takes {least}{smallest} x "
            f"{smallest}: {fix}."
        )
