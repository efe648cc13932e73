"""Posteriors for a network that is trained already: a concentration head on frozen features."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn

from probcl.checks import check_choice
from probcl.distributions import VonMisesFisher, as_posterior
from probcl.files import digest, read_tensors, write_tensors
from probcl.nn import MLP, PointHead
from probcl.programs.program import Anchors, Program, Views
from probcl.randomness import seeded
from probcl.special import inverse_bessel_ratio, log_bessel
from probcl.sphere import normalize

__all__ = ["PostHoc", "fit_posterior"]

Likelihood = Literal["neighbours", "views", "expected_likelihood"]

_BATCH, _PASSES = 256, 4
_FILE = "model.safetensors"


class PostHoc(Program):
    r"""A frozen network's own embedding, with a concentration that is learned afterwards.

    The posterior of an image is ``vMF(mu(x), kappa(x))``: ``mu`` is the embedding as it was, bit
    for bit, and ``kappa`` a small perceptron of the features. Without a latent variable, the
    program observes for each view the embedding of the next one. ``fit_posterior`` makes
    one, ``save_pretrained`` and ``from_pretrained`` keep what it has learned.

        mu(x_next) ~ vMF(mu(x), kappa(x))

    Args:
        encoder: Images to features ``(N, F)``; it is frozen, and stays in eval mode.
        projection: Features to the embedding before normalisation, frozen too; None where the
            features are the embedding.
        log_concentration: Features to the log concentration, ``(N, 1)``.
    """

    def __init__(
        self, encoder: nn.Module, projection: nn.Module | None, log_concentration: nn.Module
    ) -> None:
        head = _ConcentrationHead(projection, log_concentration)
        super().__init__(encoder, head)
        self._freeze(encoder, head.projection)

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Observe each view's embedding under the posterior of the one before it."""
        views = self._start(views)
        posterior = self._view_posteriors(views)
        with Anchors(*views.shape[:2]).averaged():
            pyro.sample("next", posterior, obs=as_posterior(posterior).mean_direction.roll(-1, 0))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the concentration head, without the network, to ``folder/model.safetensors``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        head: Any = self.posterior_head
        about = {"network_sha256": _network_digest(self.encoder, head.projection)}
        write_tensors(Path(folder) / _FILE, head.log_concentration.state_dict(), about)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, encoder: nn.Module, projection: nn.Module | None = None
    ) -> "PostHoc":
        """Give a network the posteriors that ``fit_posterior`` fitted to it, bit for bit.

        Args:
            folder: Where ``save_pretrained`` wrote.
            encoder: The same network, images to features; it is frozen, in eval mode.
            projection: The same projection.

        Raises:
            ValueError: If the folder holds no concentration head as it was written, or the network
                has other weights than the one that it was fitted to.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise ValueError(f"folder: {folder} holds no {_FILE}: name where it was saved.")
        weights, about = read_tensors(path)
        if not {"0.mean", "1.0.weight"} <= weights.keys():
            raise ValueError(f"folder: {path} holds no head that fit_posterior fitted.")
        program = cls(
            encoder, projection, _perceptron(weights["0.mean"], len(weights["1.0.weight"]))
        )
        head: Any = program.posterior_head
        if about.get("network_sha256") != _network_digest(encoder, head.projection):
            raise ValueError(
                f"encoder has other weights than the one that {folder} was fitted to: give that "
                "network, and its projection."
            )
        head.log_concentration.load_state_dict(weights)
        return program.eval()


def _network_digest(*parts: nn.Module) -> str:
    return digest({f"{i}.{n}": x for i, p in enumerate(parts) for n, x in p.state_dict().items()})


class _ConcentrationHead(PointHead):
    """The direction of a projection, and a concentration about it."""

    def __init__(self, projection: nn.Module | None, log_concentration: nn.Module) -> None:
        super().__init__(nn.Identity() if projection is None else projection)
        self.log_concentration = log_concentration

    def forward(self, features: Tensor) -> VonMisesFisher:
        concentration = self.log_concentration(features).squeeze(-1).exp()
        return VonMisesFisher(normalize(self.project(features)), concentration)


def fit_posterior(
    encoder: nn.Module,
    images: Tensor | Iterable[Any],
    projection: nn.Module | None = None,
    likelihood: Likelihood = "neighbours",
    neighbours: int = 10,
    views: Callable[[Tensor], Tensor] | None = None,
    hidden: int = 128,
    steps: int = 3000,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> PostHoc:
    r"""Give a trained network posteriors, at no loss of accuracy: fit only their concentration.

        max  mean_i mean_j log vMF(mu_j; mu_i, kappa(h_i)),  j a positive of i

    Negatives would make it measure how well an image is told from others, instead of how ambiguous
    it is.

    Args:
        encoder: Any network, images to features ``(N, F)``. It is frozen, in eval mode.
        images: To fit to, without augmentation: a tensor ``(N, channels, height, width)``, or
            batches, each a tensor or a sequence that begins with one, as of a ``DataLoader``.
        projection: Features to the embedding before normalisation, as ``posterior_head.projection``
            of ``SimCLR``; None where the features are the embedding.
        likelihood: The positives of an image: ``"neighbours"``, the images with the nearest
            embeddings; ``"views"``, other views of it; ``"expected_likelihood"``, the neighbours,
            by the overlap of both posteriors, log int vMF_i vMF_j, instead.
        neighbours: Their number.
        views: Images to augmented images, for ``"views"``.
        hidden: Hidden units of the head.
        steps: Steps of AdamW with batches of 256, the learning rate falling along a cosine.
        learning_rate: The first one.
        seed: Seed of the head and of the batches; the global random state is left alone.

    Returns:
        The program, in eval mode, on the device of the encoder.

    Raises:
        ValueError: If the features are no finite matrix, there are too few images, or an argument
            is out of range.

    References:
        Kirchhof et al. (2023), https://arxiv.org/abs/2302.02865, whose loss contrasts.

    Example:
        >>> from torchvision.models import resnet18
        >>> network = resnet18()  # with weights="DEFAULT", pretrained
        >>> network.fc = nn.Identity()
        >>> program = fit_posterior(network, torch.rand(32, 3, 32, 32), steps=2)
        >>> program(torch.rand(4, 3, 32, 32)).concentration.shape
        torch.Size([4])
    """
    from probcl.evaluation import nearest  # loads scikit-learn, which no program needs

    check_choice("likelihood", likelihood, Likelihood)
    if likelihood == "views" and views is None:
        raise ValueError("views is needed for likelihood='views': give images to augmented images.")
    encoder.eval()
    if projection is not None:
        projection.eval()
    with seeded(seed), torch.no_grad():
        features = _encoded(encoder, images)
        embedding = _embedding(projection, features)
        if not 1 <= neighbours < len(features):
            raise ValueError(
                f"neighbours must be from 1 to {len(features) - 1}, the other images, got "
                f"{neighbours}."
            )
        if views is not None and likelihood == "views":
            passes = (map(views, _batches(images, encoder)) for _ in range(_PASSES))
            others = [_embedding(projection, _encoded(encoder, batches)) for batches in passes]
            cosines = torch.stack([torch.linalg.vecdot(embedding, z) for z in others], -1)
            rows = None
        else:
            rows = nearest(embedding, k=neighbours).row
            cosines = torch.einsum("nd,nkd->nk", embedding, embedding[rows])
    with seeded(seed):
        head = _log_concentration(features, cosines, embedding.shape[1], hidden)
        overlapping = rows if likelihood == "expected_likelihood" else None
        _fit(head, features, cosines, overlapping, embedding.shape[1], steps, learning_rate)
    device = next(encoder.parameters(), torch.zeros(0)).device
    return PostHoc(encoder, projection, head.to(device)).eval()


class _Standardise(nn.Module):
    """Shift and scale features by their mean and standard deviation."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale


def _perceptron(mean: Tensor, hidden: int, scale: Tensor | None = None) -> Any:
    """Return a perceptron of features, standardised, for their log concentration."""
    scale = torch.ones_like(mean) if scale is None else scale
    head = nn.Sequential(_Standardise(mean, scale), MLP(1, hidden)).to(mean.dtype)
    head(mean[None])  # lazy layers take their sizes
    return head


def _log_concentration(features: Tensor, cosines: Tensor, dim: int, hidden: int) -> nn.Module:
    """Return a perceptron that begins with the one concentration that suits all images best."""
    scale = features.std(0, correction=0).clamp_min(1e-6)
    head = _perceptron(features.mean(0), hidden, scale)
    last: Any = head[1][-1]
    kappa = inverse_bessel_ratio(cosines.mean().clamp_min(1e-3), dim)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(kappa.log().item())
    return head


def _fit(
    head: nn.Module,
    features: Tensor,
    cosines: Tensor,
    rows: Tensor | None,
    dim: int,
    steps: int,
    learning_rate: float,
) -> None:
    """Fit the head; by the overlap with the neighbours in ``rows``, if there are any."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        batch = torch.randint(len(features), (min(_BATCH, len(features)),))
        kappa = head(features[batch]).squeeze(-1).exp()
        if rows is None:
            loss = -(kappa * cosines[batch].mean(-1) - log_bessel(kappa, dim)).mean()
        else:
            one = torch.randint(rows.shape[1], (len(batch),))
            other = head(features[rows[batch, one]]).squeeze(-1).exp()
            product = kappa * other * cosines[batch, one]
            both = (kappa.square() + other.square() + 2 * product).clamp_min(1e-12).sqrt()
            overlap = log_bessel(both, dim) - log_bessel(kappa, dim) - log_bessel(other, dim)
            loss = -overlap.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _encoded(encoder: nn.Module, images: Tensor | Iterable[Any]) -> Tensor:
    """Return the features of all images on the CPU, or raise ``ValueError``."""
    parts = []
    for batch in _batches(images, encoder):
        features = encoder(batch)
        if not isinstance(features, Tensor) or features.dim() != 2:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"encoder must map images to features of shape (N, F), got {got}.")
        parts.append(features.float().cpu())
    if not parts:
        raise ValueError("images must hold one batch at least, got none.")
    whole = torch.cat(parts)
    bad = (~whole.isfinite()).any(-1).nonzero()
    if len(bad):
        raise ValueError(
            f"encoder must give finite features, those of image {int(bad[0])} are not."
        )
    return whole


def _embedding(projection: nn.Module | None, features: Tensor) -> Tensor:
    """Return the embedding of features on the CPU."""
    if projection is None:
        return normalize(features)
    device = next(projection.parameters(), features).device
    parts = [projection(part.to(device)).float().cpu() for part in features.split(4096)]
    return normalize(torch.cat(parts))


def _batches(images: Tensor | Iterable[Any], encoder: nn.Module) -> Iterator[Tensor]:
    device = next(encoder.parameters(), torch.zeros(0)).device
    for batch in images.split(_BATCH) if isinstance(images, Tensor) else images:
        pixels = batch if isinstance(batch, Tensor) else batch[0]
        yield (pixels if pixels.is_floating_point() else pixels.float() / 255).to(device)
