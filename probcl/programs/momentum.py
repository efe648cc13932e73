"""Programs that learn from a slow copy of themselves: MoCo and BYOL."""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from probcl.checks import check_count
from probcl.nn import MLP, BatchNormMLP, MomentumEncoder
from probcl.precision import at_least_float32, full_precision
from probcl.programs.program import Anchors, PointProgram, Temperature, Views, dim_of, stack_views
from probcl.programs.ring import Ring
from probcl.sphere import normalize

__all__ = ["BYOL", "MoCo"]


class _MomentumProgram(PointProgram):
    """A program with a target: a momentum encoder of encoder and projection together.

    The target follows at the start of each run that learns, so in any loop.
    """

    def __init__(self, encoder: nn.Module, projection: nn.Module, momentum: float) -> None:
        super().__init__(encoder, projection)
        self.target = MomentumEncoder(self._online(), momentum)

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Weigh the views by how far each is from what the target makes of the others."""
        views = stack_views(views)
        self.materialize(views[0])  # a target of lazy layers has no weights before
        self._start(views)
        if self._learns():
            self.target.update(self._online())
        z = self._project_views(views)
        flat = at_least_float32(self.target(views.flatten(0, 1)))
        targets = normalize(flat).unflatten(0, views.shape[:2])
        Anchors(*views.shape[:2]).observe(self._anchors(z, targets))

    @abstractmethod
    def _anchors(self, z: Tensor, targets: Tensor) -> Tensor:
        """Return each anchor's loss, ``(V, B)``; the targets are unit vectors, ``z`` is not."""

    def freeze_encoder(self) -> Self:
        """Keep the encoder as it is, and the target's with it."""
        self._freeze(next(self.target.encoder.children()))
        return super().freeze_encoder()

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.posterior_head.projection)

    def _run_every_layer(self, images: Tensor) -> None:
        super()._run_every_layer(images)
        self.target.update(self._online())


class MoCo(_MomentumProgram):
    r"""MoCo v2: InfoNCE against a queue of the keys that a momentum encoder gave earlier batches.

    With the query ``q_v`` of each view ``v``, the keys ``k_w`` of the other views of its image and
    the keys ``n`` in the queue, all of unit length,

        loss = mean_v mean_{w != v} log(1 + sum_n exp((q_v . n - q_v . k_w) / temperature))

    Each view is a query in turn. Then the keys of the batch take the place of the oldest in the
    queue, which starts with random directions and is saved with the weights. Only a run of the
    model in training mode with gradients switched on moves the momentum encoder and the queue. In a
    process group every rank's queue takes the keys of all ranks: gradients averaged over ranks are
    those of one process with the whole batch. Batches are not shuffled between ranks.

    The temperature is the paper's; momentum and queue are those of the authors' demonstration on
    CIFAR-10, where ImageNet has 0.999 and 65,536 keys.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        momentum: Weight of the old average in the momentum encoder, in ``[0, 1)``.
        queue_size: Number of keys in the queue, at least 1.
        learn_temperature: Whether the temperature is learned, from there, and kept at 0.01 or more.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Chen et al. (2020), Improved Baselines with Momentum Contrastive Learning.
        https://arxiv.org/abs/2003.04297
        He et al. (2019), Momentum Contrast for Unsupervised Visual Representation Learning.
        https://arxiv.org/abs/1911.05722
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(encoder, MLP() if projection is None else projection, momentum)
        self.temperature = Temperature(temperature, learn_temperature)
        size = check_count("queue_size", queue_size), dim_of(self.posterior_head)
        self.queue = Ring(keys=normalize(torch.randn(size)))

    def _anchors(self, z: Tensor, targets: Tensor) -> Tensor:
        # Autograd needs the keys of this step after the queue has moved on.
        negatives = self.queue.get_buffer("keys").clone()
        if self._learns():
            self.queue.push(keys=targets.transpose(0, 1).flatten(0, 1))  # image by image
        return _against_queue(normalize(z), targets, negatives, self.temperature())


class BYOL(_MomentumProgram):
    r"""BYOL: a predictor of what a momentum encoder makes of the other views of an image.

    With the prediction ``p_v`` of each view ``v`` and the target's projections ``t_w`` of the other
    views of its image, both of unit length,

        loss = mean_v mean_{w != v} |p_v - t_w|^2 = mean_v mean_{w != v} (2 - 2 p_v . t_w)

    The embedding is without the predictor. The momentum encoder moves as that of ``MoCo``; ranks
    share nothing but gradients. The momentum is that which the paper starts from; there it rises to
    1, and the perceptrons have 4,096 hidden units and 256 outputs.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``BatchNormMLP()``.
        predictor: Projection to what the target's projection may be; by default
            ``BatchNormMLP()`` in the dimension of the projection.
        momentum: Weight of the old average in the momentum encoder, in ``[0, 1)``; constant.

    Raises:
        ValueError: If ``momentum`` is out of its range, or the predictor's dimension is not that of
            the projection.

    References:
        Grill et al. (2020), Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning.
        https://arxiv.org/abs/2006.07733
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        predictor: nn.Module | None = None,
        momentum: float = 0.996,
    ) -> None:
        super().__init__(encoder, BatchNormMLP() if projection is None else projection, momentum)
        if predictor is None:
            predictor = BatchNormMLP(dim_of(self.posterior_head))
        self.predictor = predictor

    def _anchors(self, z: Tensor, targets: Tensor) -> Tensor:
        weight = next(self.predictor.parameters(), z)
        flat = self.predictor(z.flatten(0, 1).to(weight.dtype))
        predictions = at_least_float32(flat).unflatten(0, z.shape[:2])
        if predictions.shape != targets.shape:
            raise ValueError(
                f"predictor has dimension {predictions.shape[-1]}, the projection "
                f"{targets.shape[-1]}: give both the same."
            )
        return _squared_distances(normalize(predictions), targets)

    def _run_every_layer(self, images: Tensor) -> None:
        super()._run_every_layer(images)
        z = self.project(self.encoder(images))
        self.predictor(z.to(next(self.predictor.parameters(), z).dtype))


@full_precision
def _against_queue(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float | Tensor
) -> Tensor:
    """Return InfoNCE of each query ``(V, B, d)`` against negatives ``(K, d)``."""
    positives = torch.einsum("vbd,wbd->vbw", queries, keys) / temperature
    cosines = queries @ at_least_float32(negatives).T
    others = (cosines / temperature).logsumexp(-1, keepdim=True)
    # The default threshold of 20 would cost float64 its last digits.
    return _mean_over_other_views(softplus(others - positives, threshold=40.0))


@full_precision
def _squared_distances(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared distance of each prediction ``(V, B, d)`` to the other views."""
    cosines = torch.einsum("vbd,wbd->vbw", predictions, targets)
    return _mean_over_other_views(2 - 2 * cosines)


def _mean_over_other_views(losses: Tensor) -> Tensor:
    """Average the losses ``[v, b, w]`` of view ``v`` against ``w`` over the others: ``(V, B)``."""
    views = len(losses)
    itself = torch.eye(views, dtype=torch.bool, device=losses.device)[:, None]
    return losses.masked_fill(itself, 0.0).sum(-1) / (views - 1)
