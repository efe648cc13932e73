"""Deterministic methods as programs: a point instead of a posterior."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from probcl.checks import check_vectors
from probcl.nn import PointHead
from probcl.objectives.sup_con import Average
from probcl.precision import at_least_float32
from probcl.programs.program import Anchors, Program, require_labels, stack_views
from probcl.programs.vcl import VSimCLR, VSupCon
from probcl.sphere import normalize

__all__ = ["CrossEntropy", "SimCLR", "SupCon"]


class SimCLR(VSimCLR):
    r"""SimCLR: InfoNCE between the embeddings of the views; ``VSimCLR`` with a point posterior.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations. https://arxiv.org/abs/2002.05709
    """

    def __init__(
        self, encoder: nn.Module, projection: nn.Module | None = None, temperature: float = 0.07
    ) -> None:
        super().__init__(encoder, PointHead(projection), temperature=temperature, beta=0.0)


class SupCon(VSupCon):
    r"""SupCon: the supervised contrastive loss over all views; ``VSupCon`` with a point posterior.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        average: Whether the positives are averaged ``"outside"`` the logarithm (``L_out``) or
            ``"inside"`` (``L_in``), as ``sup_con`` takes it.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning. https://arxiv.org/abs/2004.11362
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.07,
        average: Average = "outside",
    ) -> None:
        head = PointHead(projection)
        super().__init__(encoder, head, temperature=temperature, beta=0.0, average=average)


class CrossEntropy(Program):
    r"""A classifier: the label is categorical given a linear map of the features.

    Its embedding is the direction of the features.

    Args:
        encoder: Images to features.
        num_classes: Number of classes, at least 2; labels run from 0 to one less.

    Example:
        >>> import torch
        >>> from probcl.nn import ConvNet
        >>> from probcl.infer import ContrastiveELBO
        >>> program = CrossEntropy(ConvNet(), num_classes=10)
        >>> loss = ContrastiveELBO()(program.model, program.guide)
        >>> loss(torch.rand(2, 16, 1, 8, 8), torch.arange(16) % 10).shape
        torch.Size([])
    """

    def __init__(self, encoder: nn.Module, num_classes: int) -> None:
        super().__init__(encoder)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        self.num_classes = num_classes
        self.classifier = nn.LazyLinear(num_classes)

    def posterior_from_features(self, features: Tensor) -> dist.Delta:
        """Map features ``(*, F)`` to their direction, as a distribution."""
        return dist.Delta(normalize(features), event_dim=1)

    def project(self, features: Tensor) -> Tensor:
        """Return the features ``(*, F)``: they are the embedding before normalisation."""
        return features

    def _run_every_layer(self, images: Tensor) -> None:
        self.classifier(self.encoder(images))

    def model(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Observe the label of each view under the classifier."""
        views = stack_views(views)
        labels = require_labels(self, labels, views.shape[1])
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"labels must lie between 0 and num_classes - 1 = {self.num_classes - 1}, got "
                f"{labels.min().item()} to {labels.max().item()}."
            )
        self._register(views)
        logits = at_least_float32(self.classifier(self._view_features(views)))
        check_vectors("logits", logits)
        with Anchors(*views.shape[:2]).averaged():
            pyro.sample("y", dist.Categorical(logits=logits), obs=labels.expand(views.shape[:2]))

    def guide(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Do nothing: there is no latent variable."""
