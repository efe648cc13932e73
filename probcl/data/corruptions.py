"""Graded corruptions and inputs out of distribution, to ask whether uncertainty notices them.

The corruptions are in the style of ImageNet-C and CIFAR-10-C, for images of any size: what is
measured in pixels follows their height. Numbers are not comparable with those benchmarks'.

What is done to an image follows from the image and its row, the seed of its draws. It is done on
the CPU, one image at a time, so that not a bit depends on the batch, its order, or the device.

References:
    Hendrycks and Dietterich (2019), Benchmarking Neural Network Robustness to Common Corruptions
    and Perturbations, https://arxiv.org/abs/1903.12261
"""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.fft import irfft2, rfft2
from torch.nn.functional import grid_sample, interpolate, pad

from probcl.data.augment.colour import blur_weights
from probcl.data.augment.draws import as_float
from probcl.precision import at_least_float32, full_precision

__all__ = ["CORRUPTIONS", "OUT_OF_DISTRIBUTION", "SEVERITIES", "Change", "Corruption"]

#: Severities of a corruption, from slight to strong.
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A corruption that has a severity.

    Attributes:
        meaning: What it does to an image.
        of_one: Corrupts one image ``(1, channels, height, width)``, to a severity, by the draws of
            a generator.
    """

    meaning: str
    of_one: Callable[[Tensor, int, Generator], Tensor]

    def apply(self, images: Tensor, severity: int, rows: Tensor | None = None) -> Tensor:
        """Return corrupted images, in [0, 1].

        Args:
            images: Shape ``(N, channels, height, width)``, floats in [0, 1] or integers in 0..255.
            severity: 1, 2, 3, 4 or 5.
            rows: Row of each image in its data set, the seed of its draws, shape ``(N,)``; by
                default 0, 1, 2 and so on.

        Raises:
            ValueError: If ``images`` or ``rows`` have another shape, or ``severity`` is not 1 to 5.

        Example:
            >>> images = torch.rand(4, 3, 8, 8)
            >>> corruption = CORRUPTIONS["gaussian_noise"]
            >>> noisy = corruption.apply(images, severity=3)
            >>> rows = torch.tensor([2, 0])
            >>> torch.equal(noisy[rows], corruption.apply(images[rows], 3, rows))
            True
        """
        if severity not in SEVERITIES:
            raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}.")
        return _one_by_one(self.of_one, images, rows, severity)


@dataclass(frozen=True)
class Change:
    """A change that makes inputs unlike any seen in training.

    Attributes:
        meaning: What it does to an image.
        of_one: Changes one image ``(1, channels, height, width)``, by the draws of a generator.
    """

    meaning: str
    of_one: Callable[[Tensor, Generator], Tensor]

    def apply(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Change images: arguments, result and errors are those of ``Corruption.apply``."""
        return _one_by_one(self.of_one, images, rows)


@full_precision
def _one_by_one(change: Callable, images: Tensor, rows: Tensor | None, *severity: int) -> Tensor:
    if images.dim() != 4 or not images.numel():
        raise ValueError(
            f"images must have shape (N, channels, height, width), got {tuple(images.shape)}."
        )
    numbers: Iterable[int] = range(len(images)) if rows is None else rows.tolist()
    if rows is not None and rows.shape != (len(images),):
        raise ValueError(
            f"rows must have shape ({len(images)},), one for each image, got {tuple(rows.shape)}."
        )
    images = as_float(images)
    random, changed = Generator(), []
    for image, row in zip(at_least_float32(images.detach().cpu()).split(1), numbers, strict=True):
        # The draws are the same at every severity: an image grows worse, not different.
        random.manual_seed(crc32(f"{change.__name__} {row}".encode()))
        # A copy, since kernels may round by how the memory is laid out and aligned.
        changed.append(
            change(image.clone(memory_format=torch.contiguous_format), *severity, random)
        )
    return torch.cat(changed).to(images)


def _gaussian_noise(image: Tensor, severity: int, random: Generator) -> Tensor:
    noise = torch.randn(image.shape, generator=random, dtype=torch.float32).to(image)
    return (image + 0.08 * severity * noise).clamp(0, 1)


def _shot_noise(image: Tensor, severity: int, random: Generator) -> Tensor:
    photons = 48.0 / 2 ** (severity - 1)
    return (torch.poisson(image * photons, generator=random) / photons).clamp(0, 1)


def _impulse_noise(image: Tensor, severity: int, random: Generator) -> Tensor:
    share, draw = 0.05 * severity, _uniform(image, *image.shape, random=random)
    return torch.where(draw < share, (draw < share / 2).to(image), image)


def _defocus_blur(image: Tensor, severity: int, random: Generator) -> Tensor:
    radius = 0.5 + 0.02 * severity * image.shape[-2]
    reach = math.ceil(radius)
    place = torch.arange(-reach, reach + 1.0, dtype=torch.float32)
    disc = (radius + 0.5 - torch.hypot(place[:, None], place)).clamp(0, 1).to(image)
    padded = pad(image, (reach, reach, reach, reach), mode="replicate")
    size = padded.shape[-2:]
    spectrum = rfft2(padded) * rfft2(disc / disc.sum(), size)
    return irfft2(spectrum, size)[..., 2 * reach :, 2 * reach :].clamp(0, 1)


def _glass_blur(image: Tensor, severity: int, random: Generator) -> Tensor:
    height, width = image.shape[-2:]
    reach = severity * (0.025 * height + 0.1)
    draw = _uniform(image, 1, height, width, 2, random=random)
    return _blurred(_moved(image, reach * (2 * draw - 1)), 0.01 * height)


def _motion_blur(image: Tensor, severity: int, random: Generator) -> Tensor:
    length = 0.06 * severity * image.shape[-2]
    angle = math.pi * _uniform(image, 1, random=random)
    direction = torch.cat([angle.cos(), angle.sin()])
    count = 2 * math.ceil(length / 2) + 1
    steps = torch.linspace(-0.5, 0.5, count, dtype=torch.float32).to(image)
    return _moved(image, length * steps[:, None, None, None] * direction).mean(0, keepdim=True)


def _zoom_blur(image: Tensor, severity: int, random: Generator) -> Tensor:
    zooms = torch.linspace(1, 1 + 0.08 * severity, 8, dtype=torch.float32).to(image)
    return _moved(image, image.new_zeros(2), zooms[:, None, None, None]).mean(0, keepdim=True)


def _snow(image: Tensor, severity: int, random: Generator) -> Tensor:
    flakes = _uniform(image, 1, 1, *image.shape[-2:], random=random) < 0.04 * severity
    streaks = (2 * _motion_blur(flakes.to(image), 2, random)).clamp(0, 1)
    return torch.maximum(image + 0.04 * severity * (1 - image), streaks)


def _frost(image: Tensor, severity: int, random: Generator) -> Tensor:
    scales = [1 - (2 * _smooth_noise(image, cells, random) - 1).abs() for cells in (3, 6, 12)]
    ridges = torch.stack(scales).mean(0)
    return torch.lerp(image, ridges.square(), 0.14 * severity * (0.5 + 0.5 * ridges))


def _fog(image: Tensor, severity: int, random: Generator) -> Tensor:
    octaves = [_smooth_noise(image, 2**octave, random) / 2**octave for octave in (1, 2, 3)]
    amount = 0.5 * severity
    return (image + amount * torch.stack(octaves).sum(0) / 0.875) / (1 + amount)


def _elastic_transform(image: Tensor, severity: int, random: Generator) -> Tensor:
    field = torch.cat([_smooth_noise(image, 4, random) for _ in "xy"], 1).movedim(1, -1)
    return _moved(image, 0.03 * severity * image.shape[-2] * (2 * field - 1))


def _pixelate(image: Tensor, severity: int, random: Generator) -> Tensor:
    size = list(image.shape[-2:])
    few = [max(1, round((1 - 0.16 * severity) * side)) for side in size]
    return interpolate(interpolate(image, few, mode="area"), size, mode="nearest-exact")


def _jpeg_compression(image: Tensor, severity: int, random: Generator) -> Tensor:
    quality = {1: 40, 2: 25, 3: 15, 4: 10, 5: 6}[severity]
    levels = (image[0] * 255).round().to(torch.uint8)
    # Pictures are of one channel or of three; of any other number, each is a grey picture.
    pictures = [levels] if len(levels) == 3 else levels.split(1)
    decoded = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture.movedim(0, -1).squeeze(-1).numpy()).save(
            file, "JPEG", quality=quality
        )
        pixels = np.array(Image.open(file, formats=["JPEG"]))
        pixels = pixels.reshape(*picture.shape[1:], len(picture))
        decoded.append(torch.from_numpy(pixels).movedim(-1, 0))
    return torch.cat(decoded)[None].to(image) / 255


def _occlusion(image: Tensor, severity: int, random: Generator) -> Tensor:
    side = 0.1 * severity * image.shape[-2]
    draws = _uniform(image, 2, random=random)
    overlaps = []  # a pixel is covered by as much as the square overlaps it
    for extent, draw in zip(image.shape[-2:], draws, strict=True):
        centre = side / 2 + draw * (extent - side)
        distance = (torch.arange(extent).to(image) + 0.5 - centre).abs()
        overlaps.append((side / 2 + 0.5 - distance).clamp(0, 1))
    return image * (1 - overlaps[0][:, None] * overlaps[1])


def _shuffled(image: Tensor, random: Generator) -> Tensor:
    order = torch.randperm(image[0, 0].numel(), generator=random.manual_seed(0))
    return image.flatten(-2)[..., order].view_as(image)


def _noise_only(image: Tensor, random: Generator) -> Tensor:
    return _uniform(image, *image.shape, random=random)


def _uniform(image: Tensor, *shape: int, random: Generator) -> Tensor:
    """Draw numbers in [0, 1) of a shape, the same for images of every type."""
    return torch.rand(shape, generator=random, dtype=torch.float32).to(image)


def _smooth_noise(image: Tensor, cells: int, random: Generator) -> Tensor:
    """Draw noise in [0, 1] of one channel, smooth over a grid of so many cells a side."""
    cells = min(cells, *image.shape[-2:])
    rows, columns = (_stretch(cells + 1, extent).to(image) for extent in image.shape[-2:])
    coarse = _uniform(image, 1, 1, cells + 1, cells + 1, random=random)
    return (rows @ coarse @ columns.mT).clamp(0, 1)


@lru_cache
def _stretch(count: int, extent: int) -> Tensor:
    """Return the weights ``(extent, count)`` that make a line of so many numbers a longer one."""
    lines = torch.eye(count, dtype=torch.float64)[None, None]
    return interpolate(lines, (extent, count), mode="bicubic", align_corners=True)[0, 0]


def _blurred(image: Tensor, sigma: float) -> Tensor:
    rows, columns = (_weights(sigma, extent).to(image) for extent in image.shape[-2:])
    return rows @ image @ columns.mT


@lru_cache
def _weights(sigma: float, extent: int) -> Tensor:
    return blur_weights(torch.tensor([sigma], dtype=torch.float64), sigma, extent)[0]


def _moved(image: Tensor, shift: Tensor, zoom: Tensor | float = 1.0) -> Tensor:
    """Return an image looked up ``shift`` pixels to the right and down, enlarged about its centre.

    Both broadcast against ``(S, height, width, 2)``: once for each of ``S`` moves.
    """
    place, unit = (part.to(image) for part in _places(*image.shape[-2:]))
    grid = place / zoom + shift * unit
    images = image.expand(len(grid), -1, -1, -1)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


@lru_cache
def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the pixels lie, and how far one pixel is, from -1 to 1 as in ``grid_sample``."""
    rows, columns = (
        torch.linspace(-1, 1, 2 * extent + 1, dtype=torch.float32)[1::2]
        for extent in (height, width)
    )
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    return place, 2 / torch.tensor([width, height], dtype=torch.float32)


#: The fifteen corruptions of ImageNet-C and two more, by name. "A step" is one of severity.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption("Normal noise, standard deviation 0.08 a step", _gaussian_noise),
    "shot_noise": Corruption("Photon noise: 48 make white, half as many a step", _shot_noise),
    "impulse_noise": Corruption("Values made black or white, 5 % a step", _impulse_noise),
    "defocus_blur": Corruption("Blur by a disc, radius 2 % of the height a step", _defocus_blur),
    "glass_blur": Corruption("Pixels moved at random, 2.5 % of the height a step", _glass_blur),
    "motion_blur": Corruption("Blur along a line, 6 % of the height a step", _motion_blur),
    "zoom_blur": Corruption("Mean of enlargements of up to 8 % a step", _zoom_blur),
    "snow": Corruption("White streaks on a brightened image, 4 % of pixels a step", _snow),
    "frost": Corruption("Crystals of smooth noise, 14 % more opaque a step", _frost),
    "fog": Corruption("Smooth noise added, half the image's range a step", _fog),
    "brightness": Corruption("Values raised by 0.1 a step",
        lambda image, severity, _: (image + 0.1 * severity).clamp(0, 1)),
    "contrast": Corruption("Contrast lowered by 18 % a step",
        lambda image, severity, _: torch.lerp(image.mean(), image, 1 - 0.18 * severity)),
    "elastic_transform": Corruption("Pixels moved by a smooth field, 3 % of the height a step",
        _elastic_transform),
    "pixelate": Corruption("Larger pixels, 16 % fewer along a side a step", _pixelate),
    "jpeg_compression": Corruption("JPEG of quality 40, 25, 15, 10 and 6", _jpeg_compression),
    "gaussian_blur": Corruption("Gaussian blur, sigma 3 % of the height a step",
        lambda image, severity, _: _blurred(image, 0.03 * severity * image.shape[-2])),
    "occlusion": Corruption("A black square, a tenth of the height wide a step", _occlusion),
}  # fmt: skip

#: Changes that put inputs out of distribution, by name.
OUT_OF_DISTRIBUTION: dict[str, Change] = {
    "inverted": Change("Black turned into white", lambda image, _: 1 - image),
    "rotated": Change("Turned by a right angle", lambda image, _: image.rot90(dims=(-2, -1))),
    "shuffled": Change("Pixels in another order, the same for every image", _shuffled),
    "noise_only": Change("Uniform noise in place of the image", _noise_only),
}
