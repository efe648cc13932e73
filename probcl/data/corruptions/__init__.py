"""Graded corruptions and unfamiliar inputs, to ask whether uncertainty notices them.

The corruptions are in the style of ImageNet-C and CIFAR-10-C, computed on the fly for images of any
size: what is measured in pixels follows the images' height. They are not those benchmarks' files,
and numbers are not comparable with theirs.

References:
    Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261
"""

from collections.abc import Callable

from torch import Tensor

from probcl.data.corruptions.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from probcl.data.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    occlusion,
    pixelate,
)
from probcl.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from probcl.data.corruptions.unfamiliar import inverted, noise_only, rotated, shuffled
from probcl.data.corruptions.weather import brightness, fog, frost, snow

__all__ = ["CORRUPTIONS", "SEVERITIES", "STANDARD", "UNFAMILIAR"]

#: Severities of a corruption, from slight to strong.
SEVERITIES = (1, 2, 3, 4, 5)

_STANDARD = (
    gaussian_noise, shot_noise, impulse_noise,
    defocus_blur, glass_blur, motion_blur, zoom_blur,
    snow, frost, fog, brightness,
    contrast, elastic_transform, pixelate, jpeg_compression,
)  # fmt: skip

#: Names of the fifteen corruptions of ImageNet-C.
STANDARD = tuple(function.__name__ for function in _STANDARD)

#: Corruptions with a severity, by name: `(images, severity) -> images`.
CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    function.__name__: function for function in (*_STANDARD, gaussian_blur, occlusion)
}

#: Inputs unlike any seen in training, by name: `images -> images`.
UNFAMILIAR: dict[str, Callable[[Tensor], Tensor]] = {
    function.__name__: function for function in (inverted, rotated, shuffled, noise_only)
}
