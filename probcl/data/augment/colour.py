"""Random changes of colour and sharpness of whole batches, each image with its own draw."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import rgb_to_grayscale

from probcl.checks import check_amount, check_channels, check_probability, check_range
from probcl.data.augment.draws import drawn_rows, sent

__all__ = [
    "ColorJitter", "GaussianBlur", "RandomGrayscale", "blur_weights", "gaussian_blur", "jitter",
]  # fmt: skip


class ColorJitter(nn.Module):
    """Change brightness, contrast, saturation and hue of an image, in random order.

    Factors and order are drawn for each image as torchvision's ``ColorJitter`` draws them for one.
    Images of one channel have neither saturation nor hue.

    Args:
        brightness: Largest relative change of the brightness, either way.
        contrast: The same of the contrast.
        saturation: The same of the saturation.
        hue: Largest change of the hue either way in turns of the colour circle, at most 0.5.
        probability: Probability that an image is changed at all.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 0.8,
    ) -> None:
        super().__init__()
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue must lie between 0 and 0.5 turns, got {hue}.")
        self.strengths = (*(check_amount(*strength) for strength in strengths.items()), hue)
        self.probability = check_probability("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Change images ``(N, channels, height, width)`` in [0, 1]."""
        factors, order = self.draw(len(images))
        return jitter(images, factors, order)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw the factors ``(4, N)`` of images and the order ``(4, N)``, as ``jitter`` takes them.

        An entry of the order is -1 where nothing is to be done.
        """
        centre = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None]
        strength = torch.tensor(self.strengths)[:, None]
        low = centre - strength
        low[:3] = low[:3].clamp_min(0)
        factors = low + (centre + strength - low) * torch.rand(4, count)
        order = torch.rand(4, count).argsort(0)
        changed = (torch.rand(count) < self.probability) & (strength > 0)[order, 0]
        return factors, order.where(changed, -1)


class RandomGrayscale(nn.Module):
    """Take the colour out of an image at random.

    Args:
        probability: Probability that an image loses its colour.

    Raises:
        ValueError: If ``probability`` is none.
    """

    def __init__(self, probability: float = 0.2) -> None:
        super().__init__()
        self.probability = check_probability("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Change images ``(N, channels, height, width)``; those of one channel stay."""
        rows = sent(drawn_rows(images, self.probability), images)
        if check_channels(images).shape[-3] == 1:
            return images
        return images.index_copy(0, rows, rgb_to_grayscale(images.index_select(0, rows), 3))


class GaussianBlur(nn.Module):
    """Blur an image at random, by a Gaussian of random width.

    Args:
        sigma: Smallest and largest standard deviation, in pixels.
        probability: Probability that an image is blurred.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5) -> None:
        super().__init__()
        self.sigma = check_range("sigma", sigma)
        self.probability = check_probability("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Blur images ``(N, channels, height, width)``."""
        rows = drawn_rows(images, self.probability)
        sigma = torch.empty(len(rows)).uniform_(*self.sigma)
        rows = sent(rows, images)
        return images.index_copy(0, rows, gaussian_blur(images[rows], sigma, self.sigma[1]))


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of images in [0, 1].

    ``factors`` ``(4, N)`` are those of the first three, and the turns of the hue; ``order``
    ``(4, N)`` is which of the four to change first, second and so on, -1 for none.
    """
    images = check_channels(images).clone()
    changes = _CHANGES if images.shape[-3] == 3 else _CHANGES[:2]
    # At each step the images of one change stand together; their numbers are known on the CPU.
    together = sent(order.argsort(1), images)
    factors = sent(factors.to(images.dtype), images)[..., None, None, None]
    for step, rows in zip(order, together, strict=True):
        counts = torch.bincount(step + 1, minlength=1 + len(_CHANGES)).tolist()
        groups = rows.split(counts)[1:]  # the first is of those that stay
        for change, factor, chosen in zip(changes, factors, groups, strict=False):
            if len(chosen):
                before = images.index_select(0, chosen)
                after = change(before, factor.index_select(0, chosen))
                images.index_copy_(0, chosen, after)
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur images by Gaussians, mirrored at the borders, of ``sigma`` pixels, shape ``(N,)``.

    The kernel reaches three times ``largest``, the largest ``sigma`` there may be.
    """
    sigma = sent(sigma.to(images.dtype), images)
    columns = blur_weights(sigma, largest, images.shape[-1])
    rows = blur_weights(sigma, largest, images.shape[-2])
    return rows[:, None] @ images @ columns[:, None].mT


def blur_weights(sigma: Tensor, largest: float, extent: int) -> Tensor:
    """Return the weights ``(N, extent, extent)`` of the pixels of a blurred line."""
    reach = min(math.ceil(3 * largest), extent - 1)
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(-1, keepdim=True)
    line = torch.arange(extent, dtype=torch.float32, device=sigma.device)[None]
    mirrored = pad(line, (reach, reach), mode="reflect")[0].long().unfold(0, len(offsets), 1)
    weights = sigma.new_zeros(len(sigma), extent, extent)
    index = mirrored.expand(len(sigma), -1, -1)
    return weights.scatter_add_(-1, index, taps[:, None].expand(index.shape))


def _change_brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _change_contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = rgb_to_grayscale(images).mean((-3, -2, -1), keepdim=True)
    return (images * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _change_saturation(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).add_(rgb_to_grayscale(images) * (1 - factor)).clamp_(0, 1)


def _change_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of images in the hexagonal model (HSV), value and saturation kept.

    Arithmetic stands for conditions, and ``amax`` for ``max``: on a CPU they take a tenth of the
    time.
    """
    red, green, blue = images.split(1, -3)
    high = images.amax(-3, keepdim=True)
    chroma = high - images.amin(-3, keepdim=True)
    # In half precision the reciprocal of the smallest normal number is still finite.
    scale = chroma.clamp_min(torch.finfo(chroma.dtype).tiny).reciprocal_()
    # The hue in sixths of a turn: about 0 where red is highest, 2 for green, 4 for blue.
    not_red, not_green = (high - red).sign_(), (high - green).sign_()
    hue = ((blue - red) * scale).add_(2).lerp_(((red - green) * scale).add_(4), not_green)
    hue = ((green - blue) * scale).lerp_(hue, not_red).add_(6 * turns)
    # Each channel is high within a sixth of its own hue, low within a sixth of the opposite one.
    away = hue - torch.arange(0, 6, 2, device=hue.device)[:, None, None]
    away = away.sub_((away / 6).round_().mul_(6)).abs_()  # within half a turn
    return torch.addcmul(high, chroma, away.sub_(1).clamp_(0, 1), value=-1)


_CHANGES = (_change_brightness, _change_contrast, _change_saturation, _change_hue)
