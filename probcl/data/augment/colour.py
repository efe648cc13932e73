"""Random changes of colour and sharpness of whole batches, each image with its own draw."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from probcl.checks import check_amount, check_channels, check_probability, check_range
from probcl.data.augment.draws import drawn_rows, sent
from probcl.precision import full_precision

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
        ValueError: If ``probability`` is not in [0, 1].
    """

    def __init__(self, probability: float = 0.2) -> None:
        super().__init__()
        self.probability = check_probability("probability", probability)

    def forward(self, images: Tensor) -> Tensor:
        """Change images ``(N, channels, height, width)``; those of one channel stay."""
        rows = sent(drawn_rows(images, self.probability), images)
        if check_channels(images).shape[-3] == 1:
            return images
        greys = _greys(images.index_select(0, rows))
        return images.index_copy(0, rows, greys.expand(-1, 3, -1, -1))


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
    if check_channels(images).shape[-3] == 1:
        order = order.where(order < _SATURATION, -1)
    order = order.gather(0, (order < 0).int().argsort(dim=0, stable=True))  # no change comes last
    busy = (order >= 0).any(1).tolist()
    # Images whose hue turns at the same step go together, so that each of the other changes is one
    # blend for all of them; then those whose hue stays. The last are those that all of it leaves.
    kinds = torch.cat([order == _HUE, order[:1] >= 0, order[:1] < 0])
    kind = kinds.int().argmax(0)  # the first that holds
    rows, counts = kind.argsort(), torch.bincount(kind, minlength=len(kinds)).tolist()
    factors = factors.to(images.dtype)
    shares = sent(_shares(factors, order)[..., rows], images)[..., None, None].split(counts, 2)
    angles = sent(factors[_HUE, rows, None], images).split(counts)
    rows = sent(rows, images)
    changed = images.flatten(2).index_select(0, rows)
    for turn, part in enumerate(changed.split(counts)[:-1]):
        if not len(part):
            continue
        for step, amounts in enumerate(shares[turn].unbind(1)):
            if step == turn:
                _turn_hue(part, angles[turn])
            elif busy[step]:
                _blend(part, *amounts)
    return torch.empty_like(changed).index_copy_(0, rows, changed).view_as(images)


@full_precision
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


def _shares(factors: Tensor, order: Tensor) -> Tensor:
    """Return the shares ``(3, 4, N)`` of an image, its mean and its greys in what each blend makes.

    Brightness blends an image with black, contrast with the mean of its greys, saturation with its
    greys; a step that does something else, or nothing, keeps the whole image.
    """
    kept = factors.gather(0, order.clamp_min(0)).where((order >= 0) & (order < _HUE), 1)
    rest = 1 - kept
    return torch.stack(
        [kept, rest.where(order == _CONTRAST, 0), rest.where(order == _SATURATION, 0)]
    )


def _blend(images: Tensor, kept: Tensor, of_mean: Tensor, of_greys: Tensor) -> None:
    """Blend images ``(N, channels, pixels)``, in place, with the mean of their greys and these."""
    greys = _greys(images)
    mean = greys.mean(-1, keepdim=True)
    other = (greys * of_greys).add_(mean * of_mean)
    torch.addcmul(other, images, kept, out=images).clamp_(0, 1)


def _greys(images: Tensor) -> Tensor:
    """Return the luminance of images, one channel for three, as torchvision weighs them."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _turn_hue(images: Tensor, turns: Tensor) -> None:
    """Turn the hue of images ``(N, 3, pixels)``, in place, in the hexagonal model (HSV).

    Value and saturation are kept. Arithmetic stands for conditions: on a CPU they take a tenth of
    the time.
    """
    red, green, blue = images.unbind(1)
    most, least = torch.maximum(green, blue), torch.minimum(green, blue)
    high, middle = torch.maximum(red, most), torch.minimum(red, most)
    low = torch.minimum(middle, least)
    chroma = high - low
    # In half precision the reciprocal of the smallest normal number is still finite.
    divisor = chroma.clamp_min(torch.finfo(chroma.dtype).tiny)
    # The hue in turns is the distance of (middle - least) / (6 chroma) from 0 or 1 where red is
    # highest, from 1/3 where green is, and from -2/3 where blue is.
    half = torch.tensor(0.5, dtype=images.dtype)
    hue = torch.copysign(half, green - blue).sub_(1 / 3)
    hue.mul_(torch.copysign(2 * half, red - most)).sub_(1 / 6)
    hue.addcdiv_(middle.sub_(least), divisor, value=1 / 6).abs_()
    hue.add_(turns + 1).frac_().mul_(6)
    # A channel is high within a sixth of its own hue, low within a sixth of the opposite one. Red
    # is told by the opposite, as its own hue is both 0 and 6 sixths.
    for channel, (centre, base, sign) in enumerate(((3, low, 1), (2, high, -1), (4, high, -1))):
        away = (hue - centre).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(base, chroma, away, value=sign, out=images[:, channel])


# The places of the changes in the factors; brightness is the first.
_CONTRAST, _SATURATION, _HUE = 1, 2, 3
