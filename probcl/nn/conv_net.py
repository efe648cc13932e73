"""Encoders: images to features."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Small convolutional network for small images.

    One 3x3 convolution, batch normalisation and ReLU for each width, and a global average at the
    end; all but the last halve the resolution, each right after its convolution, so that the rest
    has a quarter of the work. The number of input channels is taken from the first batch.

    Args:
        widths: Channels of each layer; the last is the number of features.

    Example:
        >>> import torch
        >>> ConvNet(widths=(8, 16))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, width in enumerate(widths, 1):
            layers.append(nn.LazyConv2d(width, kernel_size=3, padding=1, bias=False))
            if index < len(widths):
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, channels, height, width)`` to features ``(N, widths[-1])``."""
        return self.layers(images)
