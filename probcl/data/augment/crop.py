"""Random resized crops of whole batches, each image with a box of its own."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from probcl.checks import check_count, check_probability, check_range
from probcl.data.augment.draws import as_float, sent
from probcl.precision import full_precision

__all__ = ["Boxes", "RandomResizedCrop", "resized_crop"]

# Boxes that are tried for an image before the whole of it is taken, as in torchvision.
_TRIES = 10
# Share of the shorter side that a centre crop keeps, the 224 of 256 pixels of ImageNet's protocol.
_CENTRE = 224 / 256


class Boxes(NamedTuple):
    """Boxes in pixels, integers on the CPU, each of shape ``(N,)``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class RandomResizedCrop(nn.Module):
    """Cut a random box out of each image, resize it to a square and flip it left to right.

    Boxes, antialiased bilinear resizing and flips are those of torchvision's transforms of one
    image, drawn for every image of a batch.

    Args:
        size: Height and width of the result in pixels.
        scale: Smallest and largest area of the box, as shares of the image's.
        ratio: Smallest and largest ratio of the box's width to its height.
        flip: Probability of a flip.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> RandomResizedCrop(16)(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 16, 16])
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        super().__init__()
        self.size = check_count("size", size)
        self.scale = check_range("scale", scale, high=1.0)
        self.ratio = check_range("ratio", ratio)
        self.flip = check_probability("flip", flip)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, channels, height, width)`` to ``(N, channels, size, size)``."""
        boxes = self.draw(len(images), *images.shape[-2:])
        flipped = torch.rand(len(images)) < self.flip
        return resized_crop(images, boxes, flipped, self.size)

    def draw(self, count: int, height: int, width: int) -> Boxes:
        """Draw a box for each of ``count`` images of ``height`` times ``width`` pixels."""
        low, high = self.ratio
        area = height * width * torch.empty(_TRIES, count).uniform_(*self.scale)
        ratio = torch.empty(_TRIES, count).uniform_(math.log(low), math.log(high)).exp()
        widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
        first = fits.int().argmax(0, keepdim=True)
        none_fits = ~fits.any(0)  # then the largest box at the centre is taken
        whole = min(height, round(width / low)), min(width, round(height * high))
        box_height, box_width = (
            torch.where(none_fits, largest, sides.gather(0, first)[0]).long()
            for sides, largest in zip((heights, widths), whole, strict=True)
        )
        free = torch.stack([height - box_height, width - box_width])
        draw = (torch.rand(2, count) * (free + 1)).long().clamp_max(free)
        top, left = torch.where(none_fits, free // 2, draw)
        return Boxes(top, left, box_height, box_width)

    def per_image(self) -> v2.Transform:
        """Return torchvision's transforms of one image with these settings."""
        crop = v2.RandomResizedCrop(self.size, self.scale, self.ratio, antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip(self.flip)])

    def centre_per_image(self) -> v2.Transform:
        """Return torchvision's transforms that cut the centre out of one image, for evaluation."""
        resize = v2.Resize(round(self.size / _CENTRE), antialias=True)
        return v2.Compose([resize, v2.CenterCrop(self.size)])

    def whole(self, images: Tensor) -> Tensor:
        """Resize images of any one size to ``(N, channels, size, size)``, uncut, for evaluation."""
        if images.shape[-2:] == (self.size, self.size):
            return as_float(images)
        sides = torch.tensor([0, 0, *images.shape[-2:]])[:, None].expand(-1, len(images))
        flipped = torch.zeros(len(images), dtype=torch.bool)
        return resized_crop(images, Boxes(*sides), flipped, self.size)


@full_precision
def resized_crop(images: Tensor, boxes: Boxes, flipped: Tensor, size: int) -> Tensor:
    """Cut a box out of each image and resize it, antialiased and bilinear, to a square in [0, 1].

    ``flipped`` ``(N,)`` are mirrored left to right. Cropping, resizing and flipping are linear in
    the pixels, along one axis at a time: two products of matrices, one pair for each image.
    """
    images = as_float(images)
    height, width = images.shape[-2:]
    top, left, box_height, box_width = sent(torch.stack(boxes), images)
    flipped = sent(flipped, images)
    weights = partial(_resampling, size=size, dtype=images.dtype)
    rows = weights(top, box_height, torch.zeros_like(flipped), extent=height)
    columns = weights(left, box_width, flipped, extent=width)
    # Wide rows make fast products: the columns go first, of all rows and channels at once.
    narrow = images.flatten(1, 2) @ columns.mT
    return rows[:, None] @ narrow.unflatten(1, (-1, height))


def _resampling(
    start: Tensor, length: Tensor, flipped: Tensor, size: int, extent: int, dtype: torch.dtype
) -> Tensor:
    """Return the weights ``(N, size, extent)`` of pixels in a resized interval of each image.

    A new pixel is the mean of the old ones about its centre, weighted by a triangle as wide as
    either pixel, whichever is larger; those outside the interval do not count. Only the few old
    pixels that may are looked at, in double precision.
    """
    exact = torch.float32 if start.device.type == "mps" else torch.float64  # Apple's has no more
    start, length = start[:, None].to(exact), length[:, None].to(exact)
    step = length / size
    reach = step.clamp_min(1)
    new = torch.arange(size, dtype=exact, device=start.device) + 0.5
    centre = start + step * torch.where(flipped[:, None], size - new, new)
    near = min(extent, math.ceil(2 * max(1, extent / size)))
    first = (centre - reach + 0.5).floor_().clamp_(0, extent - near)
    old = first + torch.arange(near, dtype=exact, device=start.device)[:, None, None]
    weights = (old + (0.5 - centre)).abs_().div_(reach).neg_().add_(1).clamp_min_(0)
    weights *= (old - (start - 1)).clamp_(0, 1) * (start + length - old).clamp_(0, 1)
    weights = (weights / weights.sum(0)).to(dtype)
    whole = weights.new_zeros(*centre.shape, extent)
    return whole.scatter_(-1, old.long().movedim(0, -1), weights.movedim(0, -1))
