"""Variational contrastive learning: VSimCLR and VSupCon."""

from abc import abstractmethod

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from probcl.nn import ProjectedNormalHead, UniformPrior
from probcl.objectives.contrastive import check_temperature
from probcl.programs.program import ClassContrast, InstanceContrast, Program

__all__ = ["VSimCLR", "VSupCon"]


class VariationalContrastive(Program):
    r"""Common ground of VSimCLR and VSupCon.

    Each of the ``V`` views of each of the ``B`` images has a latent direction:

        z_vb ~ p(z),  q(z_vb | x_vb) = posterior(encoder(x_vb)),
        log factor = -contrastive(z; labels, temperature)

    and every ``z_vb`` is scaled by ``beta / (V B d)``, which makes the negative ELBO the
    contrastive loss plus ``beta`` times the mean KL, normalised by the dimension.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.07,
        beta: float = 1.0,
    ) -> None:
        super().__init__(encoder)
        self.posterior_head = ProjectedNormalHead() if posterior is None else posterior
        if prior is None:
            prior = UniformPrior(_dim_of(self.posterior_head))
        self.prior = prior
        self.temperature = check_temperature(temperature)
        if not 0.0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta}.")
        self.beta = beta

    @abstractmethod
    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the contrastive loss of samples ``(V, B, d)``, a scalar."""

    def posterior_from_features(self, features: Tensor) -> Distribution:
        """Map features ``(*, F)`` to posteriors over the sphere, of batch shape ``(*,)``."""
        return self.posterior_head(features)

    def model(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Draw directions from the prior and weigh them by the contrastive factor."""
        self._register(views)
        prior = self.prior()
        z = self._directions(views, prior)
        if z.shape[-1:] != prior.event_shape:
            raise ValueError(
                f"the prior has dimension {prior.event_shape[0]}, the posterior {z.shape[-1]}: "
                "give both the same."
            )
        pyro.factor("contrastive", -self.contrastive(z, labels))

    def guide(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Draw each view's direction from its posterior."""
        self._register(views)
        self._directions(views, self.posterior_from_features(self._view_features(views)))

    def _directions(self, views: Tensor, distribution: dist.Distribution) -> Tensor:
        count, batch = views.shape[:2]
        weight = self.beta / (count * batch * distribution.event_shape[0])
        with (
            pyro.plate("views", count, dim=-2),
            pyro.plate("items", batch, dim=-1),
            poutine.scale(scale=weight) if weight else poutine.mask(mask=False),
        ):
            return pyro.sample("z", distribution)


def _dim_of(head: nn.Module) -> int:
    dim = getattr(head, "dim", None)
    if not isinstance(dim, int):
        raise ValueError(
            f"posterior {type(head).__name__} has no attribute dim, the dimension of its "
            "embedding: add one, or pass a prior."
        )
    return dim


class VSimCLR(InstanceContrast, VariationalContrastive):
    r"""Variational SimCLR: InfoNCE on posterior samples, and a KL to the prior.

        loss = InfoNCE(z, z'; temperature) + beta (1/2) [KL(q(.|x)) + KL(q(.|x'))] / d

    Args:
        encoder: Images to features.
        posterior: Features to a distribution over the sphere, with its dimension as ``dim``;
            by default ``ProjectedNormalHead()``.
        prior: Module whose ``forward()`` returns the distribution of one direction; by default
            uniform.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.

    References:
        Jeong, Kim, Hero (2025), Probabilistic Variational Contrastive Learning.
        https://arxiv.org/abs/2506.10159

    Example:
        >>> import torch
        >>> from probcl.nn import ConvNet
        >>> from probcl.infer import ContrastiveELBO
        >>> program = VSimCLR(ConvNet(), temperature=0.2)
        >>> loss = ContrastiveELBO(kl="gaussian_bound")(program.model, program.guide)
        >>> loss(torch.rand(2, 16, 1, 8, 8)).shape
        torch.Size([])
    """


class VSupCon(ClassContrast, VariationalContrastive):
    r"""Variational SupCon: the supervised contrastive loss on posterior samples, and a KL.

        loss = SupCon({z, z'}, labels; temperature) + beta mean KL / d

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.

    References:
        Jeong, Kim, Hero (2025), Probabilistic Variational Contrastive Learning.
        https://arxiv.org/abs/2506.10159
    """
