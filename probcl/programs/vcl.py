"""Variational contrastive learning: VSimCLR and VSupCon, and their forms with many samples."""

import math
from abc import abstractmethod
from typing import get_args

from torch import Tensor, nn

from probcl.checks import check_temperature
from probcl.nn import ProjectedNormalHead, VonMisesFisherHead
from probcl.objectives.info_nce import info_nce
from probcl.objectives.sup_con import Average, sup_con
from probcl.programs.program import Anchors, VariationalProgram, require_labels

__all__ = ["MCInfoNCE", "MCSupCon", "VSimCLR", "VSupCon"]


class VariationalContrastive(VariationalProgram):
    """Common ground of the programs whose likelihood is a contrastive factor on samples."""

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.07,
        beta: float = 1.0,
        num_samples: int = 1,
    ) -> None:
        posterior = ProjectedNormalHead() if posterior is None else posterior
        super().__init__(encoder, posterior, prior, beta)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        self.temperature = check_temperature(temperature)
        self.num_samples = num_samples

    @abstractmethod
    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the contrastive loss of each anchor, ``(*, V, B)``, of ``z``, ``(*, V, B, d)``."""

    def likelihood(self, z: Tensor, labels: Tensor | None, anchors: Anchors) -> None:
        """Weigh the directions by the contrastive factor of each anchor.

        With several samples that is ``-log mean_s exp(-loss_s)``.
        """
        losses = self.contrastive(z, labels)
        if self.num_samples > 1:
            # Their plate keeps its place where stock Pyro has one of particles on its left.
            several = losses.dim() > 3
            total = (-losses).logsumexp(-3, keepdim=several)
            losses = math.log(self.num_samples) - total
        anchors.observe(losses)


class VSimCLR(VariationalContrastive):
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
        num_samples: Posterior samples of each view; of several, each anchor's likelihood is
            averaged inside the logarithm, ``-log (1/S) sum_s exp(-InfoNCE_i(z_s))``, which tightens
            the bound. The paper has one.

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

    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return InfoNCE of each anchor."""
        return info_nce(z, self.temperature, reduction="none")


class VSupCon(VariationalContrastive):
    r"""Variational SupCon: the supervised contrastive loss on posterior samples, and a KL.

        loss = SupCon({z, z'}, labels; temperature) + beta mean KL / d

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        average: Whether the positives are averaged ``"outside"`` the logarithm (``L_out``) or
            ``"inside"`` (``L_in``), as ``sup_con`` takes it.
        num_samples: As for ``VSimCLR``.

    References:
        Jeong, Kim, Hero (2025), Probabilistic Variational Contrastive Learning.
        https://arxiv.org/abs/2506.10159
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.07,
        beta: float = 1.0,
        average: Average = "outside",
        num_samples: int = 1,
    ) -> None:
        super().__init__(encoder, posterior, prior, temperature, beta, num_samples)
        if average not in get_args(Average):
            raise ValueError(f"average must be 'outside' or 'inside', got {average!r}.")
        self.average: Average = average

    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return SupCon of each anchor, over all views."""
        labels = require_labels(self, labels, z.shape[-2])
        return sup_con(z, labels, self.temperature, average=self.average, reduction="none")


class MCInfoNCE(VSimCLR):
    r"""MCInfoNCE: InfoNCE whose ratio is averaged over posterior samples inside the logarithm.

        loss = mean_i -log (1/S) sum_s exp(-InfoNCE_i(z_s)) + beta mean KL / d

    It is ``VSimCLR`` with several samples, under its own name and with its own defaults; as
    published there is no KL.

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``; by default ``VonMisesFisherHead()``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Number ``S`` of posterior samples, at least 1.

    References:
        Kirchhof et al. (2023), Probabilistic Contrastive Learning Recovers the Correct Aleatoric
        Uncertainty of Ambiguous Inputs. https://arxiv.org/abs/2302.02865
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.05,
        beta: float = 0.0,
        num_samples: int = 16,
    ) -> None:
        posterior = VonMisesFisherHead() if posterior is None else posterior
        super().__init__(encoder, posterior, prior, temperature, beta, num_samples=num_samples)


class MCSupCon(VSupCon):
    r"""Supervised MCInfoNCE: SupCon averaged over posterior samples inside the logarithm.

        loss = mean_i -log (1/S) sum_s exp(-SupCon_i(z_s)) + beta mean KL / d

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``; by default ``VonMisesFisherHead()``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Number ``S`` of posterior samples, at least 1.

    References:
        Kirchhof et al. (2023), as for ``MCInfoNCE``. https://arxiv.org/abs/2302.02865
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.05,
        beta: float = 0.0,
        num_samples: int = 16,
    ) -> None:
        posterior = VonMisesFisherHead() if posterior is None else posterior
        super().__init__(encoder, posterior, prior, temperature, beta, num_samples=num_samples)
