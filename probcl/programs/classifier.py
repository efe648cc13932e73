"""A classifier as a program: what a supervised encoder is compared with."""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from probcl.checks import check_count, check_vectors
from probcl.precision import at_least_float32
from probcl.programs.program import Anchors, PointProgram, Views, require_labels

__all__ = ["CrossEntropy"]


class CrossEntropy(PointProgram):
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
        super().__init__(encoder, nn.Identity())
        self.num_classes = check_count("num_classes", num_classes, least=2)
        self.classifier = nn.LazyLinear(num_classes)

    def _run_every_layer(self, images: Tensor) -> None:
        self.classifier(self.encoder(images))

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Observe the label of each view under the classifier."""
        views = self._start(views)
        labels = require_labels(self, labels, views.shape[1])
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"labels must lie between 0 and num_classes - 1 = {self.num_classes - 1}, got "
                f"{labels.min().item()} to {labels.max().item()}."
            )
        logits = at_least_float32(self.classifier(self._view_features(views)))
        check_vectors("logits", logits)
        with Anchors(*views.shape[:2]).averaged():
            pyro.sample("y", dist.Categorical(logits=logits), obs=labels.expand(views.shape[:2]))
