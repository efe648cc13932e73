"""An encoder whose weights follow those of another."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["MomentumEncoder"]


class MomentumEncoder(nn.Module):
    r"""Exponential moving average of an encoder: the target network of MoCo and BYOL.

    It starts as a copy. ``update``, called after each step of the optimizer, moves weights and
    buffers,

        average = momentum * average + (1 - momentum) * encoder

    and copies integers, such as batch normalisation's count of batches. An optimizer leaves it as
    it is; ``train()`` and ``eval()`` work as for any module. If the encoder has lazy layers, the
    first ``update`` after it has seen an image copies their weights.

    Args:
        encoder: Any module; it stays as it is.
        momentum: Weight of the old average, in ``[0, 1)``. For a schedule, set the attribute of
            this name, to a number in ``[0, 1]``.

    Raises:
        ValueError: If ``momentum`` does not lie in ``[0, 1)``.

    References:
        He et al. (2019), https://arxiv.org/abs/1911.05722, and Grill et al. (2020),
        https://arxiv.org/abs/2006.07733, as for ``MoCo`` and ``BYOL``.

    Example:
        >>> encoder = nn.Linear(1, 1, bias=False)
        >>> target = MomentumEncoder(encoder, momentum=0.75)
        >>> before = encoder.weight.item()
        >>> _ = nn.init.constant_(encoder.weight, before + 1)
        >>> target.update(encoder)
        >>> round(target.encoder.weight.item() - before, 3)
        0.25
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}.")
        self.momentum = momentum
        self.encoder = deepcopy(encoder)
        for parameter in self.encoder.parameters():
            parameter.requires_grad = False

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images to features as the encoder does, without gradients.

        Raises:
            ValueError: If the encoder was lazy, and ``update`` has not been called since.
        """
        if _is_lazy(self.encoder):
            raise ValueError(
                "the momentum encoder has no weights yet, as the encoder it copies had none: call "
                "its update(encoder) once the encoder has seen an image."
            )
        return self.encoder(images)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Move the average towards the encoder.

        Args:
            encoder: The encoder that this one was made from, after a step of the optimizer.

        Raises:
            ValueError: If the encoder has other weights than that one, or none yet.
        """
        if _is_lazy(encoder):
            raise ValueError(
                "the encoder has lazy layers without weights: let it see an image before update."
            )
        if _is_lazy(self.encoder):
            # In place: a new copy would have lost the mode, and who holds the old one.
            self.encoder.load_state_dict(encoder.state_dict())
            return
        ours, theirs = list(_tensors(self.encoder)), list(_tensors(encoder))
        if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
            raise ValueError(
                "the encoder has other weights than the one that this MomentumEncoder was made "
                "from: update it with that one."
            )
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(ours, theirs, strict=True):
            if average.is_floating_point() or average.is_complex():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        # torch's AveragedModel, around the same function, would copy the encoder at the first call,
        # and wait for the device at every call to learn whether it is the first.
        if averages:
            get_ema_multi_avg_fn(self.momentum)(averages, values, 0)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _is_lazy(module: nn.Module) -> bool:
    lazy = (UninitializedParameter, UninitializedBuffer)
    return any(isinstance(tensor, lazy) for tensor in _tensors(module))
