"""Residual networks as encoders."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from probcl.checks import check_choice, check_count
from probcl.nn.images import Normalize

__all__ = ["ResNet", "Stem"]

Stem = Literal["imagenet", "cifar"]

_STAGES: dict[int, tuple[type[nn.Module], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
    200: (Bottleneck, [3, 24, 36, 3]),
}


class ResNet(resnet.ResNet):
    """Residual network without its classifier: 512 features to depth 34, 2048 from depth 50.

    It is torchvision's, with the same names in the state dict. Images are standardised inside,
    by ImageNet's mean and standard deviation.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        stem: ``"imagenet"``: a 7x7 convolution of stride 2 and a max-pool. ``"cifar"``, for images
            of about 32 pixels: a 3x3 convolution of stride 1, the resolution kept.
        channels: Channels of the images.
        zero_init: Whether the last batch normalisation of each residual branch starts at zero, and
            so each block as its shortcut.

    Raises:
        ValueError: If ``depth`` or ``stem`` is none of these, or ``channels`` is not positive.

    References:
        He et al. (2015), Deep Residual Learning for Image Recognition.
        https://arxiv.org/abs/1512.03385; depth 200: He et al. (2016), Identity Mappings in Deep
        Residual Networks, https://arxiv.org/abs/1603.05027; the stem for CIFAR: Chen et al. (2020),
        A Simple Framework for Contrastive Learning of Visual Representations,
        https://arxiv.org/abs/2002.05709; the start at zero: Goyal et al. (2017), Accurate, Large
        Minibatch SGD, https://arxiv.org/abs/1706.02677.

    Example:
        >>> import torch
        >>> ResNet(18, stem="cifar", channels=1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, depth: int = 18, stem: Stem = "imagenet", channels: int = 3, zero_init: bool = True
    ) -> None:
        if depth not in _STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, _STAGES))}, got {depth}.")
        check_choice("stem", stem, Stem)
        check_count("channels", channels)
        super().__init__(*_STAGES[depth], zero_init_residual=zero_init)
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem == "cifar":
            self.maxpool = nn.Identity()
        self.fc = nn.Identity()
        self.normalize = Normalize("ResNet", channels=channels)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, channels, height, width)``, floats in [0, 1], to features ``(N, F)``.

        Raises:
            ValueError: If the images have other channels, or are not floats.
        """
        return super().forward(self.normalize(images))
