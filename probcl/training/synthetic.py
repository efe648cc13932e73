"""Data whose true posterior is known, as a data module: is the spread that of the truth?"""

from typing import Any

import torch
from torch import Tensor

from probcl.data import ConjugateGenerator, ImageArrays
from probcl.distributions import VonMisesFisher
from probcl.randomness import seeded
from probcl.training.data import ImageData

__all__ = ["Synthetic"]


class _Items(ImageArrays):
    """Hidden directions, each with one view for evaluation and its true concentration."""

    def __init__(self, source: ConjugateGenerator, count: int, seed: int) -> None:
        with seeded(seed):
            views, _, concentration, latent = source.sample(count, views=1)
        self.images = torch.cat([latent, views[0]], -1)
        self.concentration = concentration[0]
        self.labels = torch.zeros(count, dtype=torch.long)


class Synthetic(ImageData):
    """Views of hidden directions by ``ConjugateGenerator``, in place of images.

    A view is a vector of ``dim + 1`` numbers: take ``MLP`` for the encoder, and a posterior in the
    dimension ``dim``. There are no classes; the report gives the rank correlation of every score
    with the true spread, and that of the entropy before the encoder was trained.

    Args:
        dim: Dimension of the directions.
        low: The lowest concentration.
        high: The highest concentration.
        items: Number of items to train on; every step draws new views of them.
        tested: Number of items to test on.
        **kwargs: As for ``ImageData``; augmentation, channels and degraded views mean nothing here.
    """

    def __init__(
        self,
        dim: int = 10,
        low: float = 16.0,
        high: float = 32.0,
        items: int = 20_000,
        tested: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.source = ConjugateGenerator(dim, (low, high))
        self.items = items
        self.tested = tested

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Draw the items, always the same."""
        return _Items(self.source, self.items, 1), _Items(self.source, self.tested, 2)

    @property
    def truth(self) -> Tensor:
        """True concentration of each test item, shape ``(tested,)``."""
        test = self.sets[1]
        assert isinstance(test, _Items)
        return test.concentration

    def _views(self, batch: tuple, training: bool) -> list[Tensor]:
        latent, view = batch[0].split([self.dim, self.dim + 1], -1)
        if not training:
            return [view]
        low, high = self.source.concentration
        latent = latent.cpu()  # where the generator is
        views = []
        for _ in range(self.views):
            concentration = low * (high / low) ** torch.rand(len(latent))
            loc = VonMisesFisher(latent, concentration, validate_args=False).sample()
            views.append(self.source.mix(loc, concentration).to(view))
        return views
