"""VarCon: supervised contrastive learning as variational inference over the class."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from probcl.checks import (
    break_graph,
    check_choice,
    check_labels,
    check_scalar,
    check_temperature,
    check_unit,
    check_views,
    off_the_sphere,
    value_of,
)
from probcl.objectives.collectives import all_reduce, number_classes
from probcl.objectives.pairwise import Reduction
from probcl.precision import at_least_float32, full_precision
from probcl.special.autograd import grad_of_plain
from probcl.sphere import normalize

__all__ = [
    "ClassCentroids", "adaptive_target", "check_epsilon", "class_centroids",
    "class_log_probabilities", "varcon",
]  # fmt: skip

# Below this exp(-1 / tau2) is zero in every precision: the target is one-hot, its gradient zero.
_ONE_HOT = 1e-3
# Below this the rounding of a cosine to float32 would show in the gradient: float64 is used.
_SHARP = 0.03


@full_precision
def varcon(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    *,
    epsilon: float | Tensor = 0.02,
    reduction: Reduction = "mean",
    gather: bool = True,
) -> Tensor:
    r"""Pull each embedding to its class's centroid, with a confidence-adaptive target (VarCon).

    With ``w_r`` the normalised sum of the embeddings of class ``r``, a constant, over the ``C``
    classes of the batch,

        p(r|z) = softmax_r(z . w_r / temperature)                                    (8)
        tau2(z) = (temperature - epsilon) + 2 epsilon p(y|z)                        (13)
        q(r|z) proportional to 1 + [exp(1 / tau2) - 1] 1{r = y}                  (10-12)
        L = mean_i [KL(q(.|z_i) || p(.|z_i)) - log p(y_i|z_i)]                       (7)

    computed from the log-odds of ``y``, so that no exponential overflows and a value near zero
    keeps its digits; ``tau2 = 0`` gives the one-hot target. A batch of one class has no loss.

    Args:
        z: Unit vectors, shape ``(*, V, B, d)``: ``V >= 1`` views of ``B`` images.
        labels: Class of each image, integers, shape ``(B,)``.
        temperature: As for ``info_nce``; ``tau1`` in the paper.
        epsilon: Strength of the adaptation, a number or tensor as well, in ``[0, temperature]``.
        reduction: As for ``info_nce``.
        gather: As for ``info_nce``, but ranks may hold batches of any size.

    Returns:
        The loss, a scalar; with ``reduction="none"`` that of each embedding of this rank,
        ``(*, V, B)``.

    Raises:
        ValueError: If shapes do not fit, ``labels`` are not integers, an embedding of any rank is
            not a unit vector, ``temperature <= 0`` or ``epsilon`` lies outside
            ``[0, temperature]``.

    References:
        Wang et al. (2025), Variational Supervised Contrastive Learning, equations 7-13.
        https://arxiv.org/abs/2506.07413

    Example:
        >>> z = torch.eye(2).expand(2, 2, 2)
        >>> varcon(z, torch.tensor([0, 1]), temperature=0.5, epsilon=0.5)
        tensor(0.1855)
    """
    check_choice("reduction", reduction, Reduction)
    check_epsilon(epsilon, temperature)
    check_views("z", z)
    check_labels(z, labels)
    break_graph("varcon looks at its labels: compile it without fullgraph=True.")
    flat = z.flatten(-3, -2)
    centroids = class_centroids(flat, labels.repeat(z.shape[-3]), gather)
    losses = _losses(flat, centroids, temperature, epsilon)
    if reduction == "mean":
        total = losses.sum() / math.prod(z.shape[:-3])
        return all_reduce(total, gather) / centroids.total
    return losses.view(z.shape[:-1])


class ClassCentroids(NamedTuple):
    """Mean directions of the classes of a batch."""

    directions: Tensor  # unit vectors, constants, ``(*, C, d)``, one for each class present
    classes: Tensor  # row of each embedding's class, ``(N,)``
    total: Tensor  # number of embeddings on all ranks


@full_precision
def class_centroids(z: Tensor, labels: Tensor, gather: bool = True) -> ClassCentroids:
    """Return the normalised sums of the embeddings of each class, over all ranks if ``gather``.

    Args:
        z: Unit vectors, shape ``(*, N, d)``.
        labels: Class of each embedding, integers, shape ``(N,)``.
        gather: As for ``info_nce``.

    Raises:
        ValueError: If ``labels`` are not ``(N,)`` integers or there is no embedding; on every rank,
            if an embedding of any is not a unit vector.
    """
    check_labels(z, labels)
    given, z = z, at_least_float32(z.detach())
    names, classes = number_classes(labels, gather)
    size = len(names)
    if not size:
        raise ValueError(f"z must hold at least one embedding, got shape {tuple(z.shape)}.")
    sums = z.new_zeros(*z.shape[:-2], size, z.shape[-1]).index_add_(-2, classes, z)
    counts = torch.bincount(classes, minlength=size).to(z.dtype)
    # The counts travel as one more coordinate, and as NaN the news that an embedding is refused.
    counts = counts.masked_fill(off_the_sphere(given).any(), torch.nan)
    sums = torch.cat([sums, counts.expand(sums.shape[:-1])[..., None]], dim=-1)
    sums = all_reduce(sums, gather)
    if not value_of("z", sums.isfinite().all()):
        check_unit("z", given)
        raise ValueError(
            "z must hold unit vectors, got others on another rank; divide by their norm with "
            "probcl.sphere.normalize."
        )
    counts = sums[..., -1].reshape(-1, size)[0]
    return ClassCentroids(normalize(sums[..., :-1]), classes, counts.sum())


@full_precision
def class_log_probabilities(
    z: Tensor, centroids: ClassCentroids, temperature: float | Tensor
) -> Tensor:
    """Return ``log p(r|z)`` (8), shape ``(*, N, C)``, of unit vectors ``(*, N, d)``."""
    z = at_least_float32(z)
    return log_softmax(z @ centroids.directions.mT / temperature, dim=-1)


@full_precision
def adaptive_target(
    log_p: Tensor, classes: Tensor, temperature: float | Tensor, epsilon: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the confidence-adaptive target ``log q(r|z)`` (10-12), and its temperature (13).

    Args:
        log_p: ``log p(r|z)``, shape ``(*, C)``.
        classes: Row of each embedding's class, of a shape that broadcasts to ``(*)``.
        temperature: The temperature ``tau1``.
        epsilon: Strength of the adaptation, in ``[0, temperature]``.

    Returns:
        Tensors of shape ``(*, C)`` and ``(*)``.
    """
    own = classes.expand(log_p.shape[:-1])[..., None]
    tau2 = _tau2(log_p.gather(-1, own).squeeze(-1).exp(), temperature, epsilon)
    logits = torch.zeros_like(log_p).scatter(-1, own, 1 / tau2[..., None])
    return log_softmax(logits, dim=-1), tau2


def _tau2(confidence: Tensor, temperature: float | Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the temperature of the target (13), kept above zero."""
    return ((temperature - epsilon) + 2 * epsilon * confidence).clamp(min=_ONE_HOT)


def check_epsilon(epsilon: float | Tensor, temperature: float | Tensor) -> None:
    """Raise ``ValueError`` unless ``0 <= epsilon <= temperature``."""
    temperature, value = check_temperature(temperature), check_scalar("epsilon", epsilon)
    # A parameter in single precision may end a rounding above the temperature.
    if not 0.0 <= value <= temperature * (1 + 1e-6):
        raise ValueError(
            f"epsilon must lie between 0 and temperature = {temperature}, got {value}."
        )


def _losses(
    z: Tensor, centroids: ClassCentroids, temperature: float | Tensor, epsilon: float | Tensor
) -> Tensor:
    z, directions = at_least_float32(z), centroids.directions
    others = directions.shape[-2] - 1
    if not others:
        return 0.0 * (z.sum(-1) + temperature + epsilon)  # a gradient for each
    given, sharp = z.dtype, bool(temperature < _SHARP)
    if sharp:
        z, directions = z.double(), directions.double()
    if isinstance(temperature, Tensor):
        temperature = temperature.to(z)
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.to(z)
    own, log_others, mean_other = _ClassLogits.apply(
        z, directions / temperature, centroids.classes, sharp
    )[:3]
    # All follows from the log-odds of the class, under p and under the target q.
    log_odds = own - log_others
    tau2 = _tau2(log_odds.sigmoid(), temperature, epsilon)
    target_log_odds = 1 / tau2 - math.log(others)
    surprise = -logsigmoid(log_odds)
    divergence = target_log_odds.sigmoid() * (logsigmoid(target_log_odds) + surprise)
    # Of the other classes q makes no difference: what is left is their divergence from equal.
    unequal = log_others - math.log(others) - mean_other
    rest = logsigmoid(-target_log_odds) - logsigmoid(-log_odds) + unequal
    losses = divergence + (-target_log_odds).sigmoid() * rest + surprise
    return losses.to(given)


class _ClassLogits(torch.autograd.Function):
    """Logit of the own class, log-sum-exp and mean of the others, ``(*, N)``; and what is kept.

    The backward pass makes one matrix of weights of the three. Exponentials of logits that are not
    ``sharp``, ``1 / _SHARP`` at most, are in the range of float32 as they are.
    """

    @staticmethod
    def forward(z: Tensor, w: Tensor, classes: Tensor, sharp: bool) -> tuple[Tensor, ...]:
        logits = z @ w.mT
        index = classes.expand(logits.shape[:-1])[..., None]
        own, mean = _own_and_mean(z, w, logits, index)
        logits.scatter_(-1, index, -torch.inf)
        largest = logits.amax(-1) if sharp else torch.zeros_like(own)
        exponentials = (logits.sub_(largest[..., None]) if sharp else logits).exp_()
        sums = exponentials.sum(-1)
        return own, sums.log() + largest, mean, exponentials, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)  # of zeros as large as the exponentials
        ctx.save_for_backward(*inputs[:3], *output[3:])

    @staticmethod
    def backward(
        ctx: Any, of_own: Tensor | None, of_others: Tensor | None, of_mean: Tensor | None, *_: None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        if of_own is None or of_others is None or of_mean is None:
            return None, None, None, None  # the loss, which needs all three, is not differentiated
        z, w, classes, exponentials, sums = ctx.saved_tensors
        index = classes.expand(sums.shape)[..., None]
        if torch.is_grad_enabled():  # a second derivative is asked for

            def plain(z: Tensor, w: Tensor) -> tuple[Tensor, ...]:
                logits = z @ w.mT
                own, mean = _own_and_mean(z, w, logits, index)
                return own, logits.scatter(-1, index, -torch.inf).logsumexp(-1), mean

            of_z, of_w = grad_of_plain(plain, (z, w), (of_own, of_others, of_mean))
            return of_z, of_w, None, None
        of_each = of_mean[..., None] / (exponentials.shape[-1] - 1)
        weights = torch.addcmul(of_each, exponentials, (of_others / sums)[..., None])
        weights.scatter_(-1, index, of_own[..., None])
        return weights @ w, weights.mT @ z if ctx.needs_input_grad[1] else None, None, None


def _own_and_mean(z: Tensor, w: Tensor, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logit of the own class, and the mean of the others."""
    own = logits.gather(-1, index).squeeze(-1)
    total = (z @ w.sum(-2)[..., None])[..., 0]  # of all logits
    return own, (total - own) / (logits.shape[-1] - 1)
