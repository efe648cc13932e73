"""Vision transformers as encoders."""

from typing import Literal

from torch import Tensor, nn
from torchvision import models

from probcl.checks import check_choice
from probcl.nn.images import Normalize, check_size

__all__ = ["Size", "VisionTransformer"]

Size = Literal["small", "base"]

_HEADS_AND_WIDTH: dict[str, tuple[int, int]] = {"small": (6, 384), "base": (12, 768)}


class VisionTransformer(models.VisionTransformer):
    """Vision transformer without its classifier; the class token is the features.

    It is torchvision's, with the same names in the state dict: 12 layers, the hidden layer of each
    perceptron four times the width. Images are standardised inside, by ImageNet's mean and
    standard deviation.

    Args:
        size: ``"small"``: 6 heads, width 384. ``"base"``: 12 heads, width 768.
        image_size: Height and width of the images.
        patch_size: Height and width of a patch; it divides ``image_size``.

    Raises:
        ValueError: If ``size`` is neither, or ``patch_size`` does not divide ``image_size``.

    References:
        Dosovitskiy et al. (2020), An Image is Worth 16x16 Words.
        https://arxiv.org/abs/2010.11929; the small one: Touvron et al. (2020), Training
        Data-Efficient Image Transformers, https://arxiv.org/abs/2012.12877.

    Example:
        >>> import torch
        >>> VisionTransformer(image_size=16, patch_size=8)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 384])
    """

    def __init__(self, size: Size = "small", image_size: int = 224, patch_size: int = 16) -> None:
        check_choice("size", size, Size)
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(
                f"patch_size must divide image_size = {image_size}, got {patch_size}: set "
                "another patch_size, or resize the images."
            )
        heads, width = _HEADS_AND_WIDTH[size]
        super().__init__(image_size, patch_size, 12, heads, width, mlp_dim=4 * width)
        self.heads = nn.Identity()
        self.normalize = Normalize("VisionTransformer")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, image_size, image_size)``, floats in [0, 1], to features ``(N, F)``.

        Raises:
            ValueError: If the images have other channels or another size, or are not floats.
        """
        images = self.normalize(images)
        fix = "set image_size to theirs, or resize the images"
        check_size(images, "VisionTransformer", fix, self.image_size, self.image_size)
        return super().forward(images)
