"""Contrast of embeddings: SimCLR and SupCon, variational, with many samples, and as points."""

import math
from abc import abstractmethod

from torch import Tensor, nn

from probcl.checks import check_choice
from probcl.nn import PointHead, VonMisesFisherHead
from probcl.objectives import info_nce, sup_con
from probcl.objectives.sup_con import Average
from probcl.programs.program import (
    Anchors,
    FromGuide,
    Temperature,
    VariationalProgram,
    Views,
    require_labels,
)  # fmt: skip
from probcl.programs.shrinkage import corrected, expected_shrinkage

__all__ = ["MCInfoNCE", "MCSupCon", "SimCLR", "SupCon", "VSimCLR", "VSupCon"]


class _Contrastive(VariationalProgram):
    """A program whose likelihood is a contrastive factor on samples."""

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.07,
        beta: float = 0.005,
        num_samples: int = 1,
        learn_temperature: bool = False,
        temperature_correction: bool = True,
    ) -> None:
        super().__init__(encoder, posterior, prior, beta, num_samples)
        self.temperature = Temperature(temperature, learn_temperature)
        self.temperature_correction = temperature_correction
        self._shrinkage: FromGuide[Tensor] = FromGuide()

    @abstractmethod
    def contrastive(self, z: Tensor, labels: Tensor | None, temperature: float | Tensor) -> Tensor:
        """Return the contrastive loss of each anchor, ``(*, V, B)``, of ``z``, ``(*, V, B, d)``."""

    def guide(self, views: Views, labels: Tensor | None = None) -> None:
        """Draw each view's direction from its posterior."""
        z, _, q = self._posterior_directions(views)
        if self.temperature_correction:
            self._shrinkage.put(z, expected_shrinkage(q))

    def likelihood(self, z: Tensor, labels: Tensor | None, anchors: Anchors) -> None:
        """Weigh the directions by each anchor's factor; of several samples, by their mean."""
        shrinkage = self._shrinkage.get(z)
        temperature = self.temperature()
        if shrinkage is not None:
            temperature = corrected(temperature, shrinkage)
        losses = self.contrastive(z, labels, temperature)
        if self.num_samples > 1:
            # Their plate keeps its place where stock Pyro has one of particles on its left.
            several = losses.dim() > 3
            total = (-losses).logsumexp(-3, keepdim=several)
            losses = math.log(self.num_samples) - total
        anchors.observe(losses)


class VSimCLR(_Contrastive):
    r"""Variational SimCLR: InfoNCE on posterior samples, and a KL to the prior.

        loss = InfoNCE(z, z'; temperature) + beta (1/2) [KL(q(.|x)) + KL(q(.|x'))] / d

    The paper's head starts near the uniform: its first gradients are noise, concentration is bought
    by long ``mu`` in few directions, and the embedding collapses onto them. So by default

    - posteriors start concentrated (``ProjectedNormalHead``);
    - the temperature is corrected. Samples of posteriors of mean resultant lengths ``rho`` shrink
      cosines, ``E[z_i . z_j] = rho_i rho_j mu_i . mu_j``: they are divided by ``temperature *
      mean(rho^2)`` over the batch, without gradient, so that the loss of the directions keeps its
      temperature while ``rho`` moves (``probcl.programs.shrinkage``); directions that no guide drew
      are not;
    - ``beta`` is 0.005: once concentration earns little, a KL of more weight widens all posteriors
      alike, so that entropy tells less and dimensions are lost (``experiments/twins``).

    Trained with the paper's bound in place of the exact KL (``kl="gaussian_bound"``) an embedding
    uses more dimensions than that of its deterministic twin (``experiments/digits_twins``).

    Temperature 0.07 and one sample are the paper's. Its own form is ``VSimCLR(encoder,
    ProjectedNormalHead(initial_resultant_length=None), beta=1.0, temperature_correction=False)``,
    as in ``experiments/recipes/vcl``; ``experiments/fashion_mnist`` has both beside their twins.

    Args:
        encoder: Images to features.
        posterior: Features to a distribution over the sphere, with its dimension as ``dim``;
            by default ``ProjectedNormalHead()``.
        prior: Module whose ``forward()`` returns the distribution of one direction; by default
            uniform.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Posterior samples of each view; of several, each anchor's likelihood is
            averaged inside the logarithm, as for ``MCInfoNCE``, which tightens the bound.
        learn_temperature: Whether the temperature is learned, from there, and kept at 0.01 or more.
        temperature_correction: Whether it is corrected for the samples' shrinkage of cosines, as
            above.

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

    def contrastive(self, z: Tensor, labels: Tensor | None, temperature: float | Tensor) -> Tensor:
        """Return InfoNCE of each anchor."""
        return info_nce(z, temperature, reduction="none")


class VSupCon(_Contrastive):
    r"""Variational SupCon: the supervised contrastive loss on posterior samples, and a KL.

        loss = SupCon({z, z'}, labels; temperature) + beta mean KL / d

    The defaults are those of ``VSimCLR``.

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        average: Whether the positives are averaged ``"outside"`` the logarithm (``L_out``) or
            ``"inside"`` (``L_in``), as ``sup_con`` takes it.
        num_samples: As for ``VSimCLR``.
        learn_temperature: As for ``VSimCLR``.
        temperature_correction: As for ``VSimCLR``.

    References:
        Jeong, Kim, Hero (2025), as for ``VSimCLR``. https://arxiv.org/abs/2506.10159
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.07,
        beta: float = 0.005,
        average: Average = "outside",
        num_samples: int = 1,
        learn_temperature: bool = False,
        temperature_correction: bool = True,
    ) -> None:
        super().__init__(
            encoder, posterior, prior, temperature, beta, num_samples, learn_temperature,
            temperature_correction,
        )  # fmt: skip
        check_choice("average", average, Average)
        self.average: Average = average

    def contrastive(self, z: Tensor, labels: Tensor | None, temperature: float | Tensor) -> Tensor:
        """Return SupCon of each anchor, over all views."""
        labels = require_labels(self, labels, z.shape[-2])
        return sup_con(z, labels, temperature, average=self.average, reduction="none")


class MCInfoNCE(VSimCLR):
    r"""MCInfoNCE: InfoNCE whose ratio is averaged over posterior samples inside the logarithm.

        loss = mean_i -log (1/S) sum_s exp(-InfoNCE_i(z_s)) + beta mean KL / d

    It is ``VSimCLR`` with several samples and the defaults of the authors' code
    (github.com/mkirchhof/Probabilistic_Contrastive_Learning): a positive concentration of 20, which
    is a temperature of 0.05, 16 samples, no KL.

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``; by default ``VonMisesFisherHead()``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Number ``S`` of posterior samples, at least 1.
        learn_temperature: As for ``VSimCLR``.

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
        learn_temperature: bool = False,
    ) -> None:
        posterior = VonMisesFisherHead() if posterior is None else posterior
        super().__init__(
            encoder, posterior, prior, temperature, beta, num_samples, learn_temperature,
            temperature_correction=False,
        )  # fmt: skip


class MCSupCon(VSupCon):
    r"""Supervised MCInfoNCE: SupCon averaged over posterior samples inside the logarithm.

        loss = mean_i -log (1/S) sum_s exp(-SupCon_i(z_s)) + beta mean KL / d

    It is not published; its defaults are those of ``MCInfoNCE``.

    Args:
        encoder: Images to features.
        posterior: As for ``VSimCLR``; by default ``VonMisesFisherHead()``.
        prior: As for ``VSimCLR``.
        temperature: Positive number that divides the cosines.
        beta: Weight of the normalised KL, at least 0.
        average: As for ``VSupCon``.
        num_samples: Number ``S`` of posterior samples, at least 1.
        learn_temperature: As for ``VSimCLR``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.05,
        beta: float = 0.0,
        average: Average = "outside",
        num_samples: int = 16,
        learn_temperature: bool = False,
    ) -> None:
        posterior = VonMisesFisherHead() if posterior is None else posterior
        super().__init__(
            encoder, posterior, prior, temperature, beta, average, num_samples, learn_temperature,
            temperature_correction=False,
        )  # fmt: skip


class SimCLR(VSimCLR):
    r"""SimCLR: InfoNCE between the embeddings of the views; ``VSimCLR`` with a point posterior.

    The temperature is the paper's for ImageNet; it has 0.5 for CIFAR-10.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        learn_temperature: As for ``VSimCLR``.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations. https://arxiv.org/abs/2002.05709
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.1,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(
            encoder, PointHead(projection), None, temperature, 0.0, 1, learn_temperature,
            temperature_correction=False,
        )  # fmt: skip


class SupCon(VSupCon):
    r"""SupCon: the supervised contrastive loss over all views; ``VSupCon`` with a point posterior.

    Temperature and average are the paper's.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        average: As for ``VSupCon``.
        learn_temperature: As for ``VSimCLR``.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning. https://arxiv.org/abs/2004.11362
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.1,
        average: Average = "outside",
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(
            encoder, PointHead(projection), None, temperature, 0.0, average, 1, learn_temperature,
            temperature_correction=False,
        )  # fmt: skip
