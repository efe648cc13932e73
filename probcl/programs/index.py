"""Search in a gallery by match probability, which knows when it fails."""

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcl.checks import as_labels, check_count
from probcl.distributions import VonMisesFisher
from probcl.evaluation.abstention import Abstention, fit_abstention
from probcl.evaluation.knn import nearest
from probcl.evaluation.progress import track
from probcl.programs.bank import SAME
from probcl.programs.graph import NearestGraph
from probcl.programs.posthoc import PostHoc

__all__ = ["Found", "PosteriorIndex"]

_IMAGES = 256  # that are encoded at once
_LOOKED_AT = 100  # queries that are sought in the gallery before they calibrate


class Found(NamedTuple):
    """What a search found for ``N`` queries, the likeliest match first, on the CPU.

    Attributes:
        probability: Match probabilities, ``(N, k)``.
        row: Rows in the gallery, ``(N, k)``.
        accepted: Whether the first match is to be trusted, ``(N,)``; None before ``calibrate``.
    """

    probability: Tensor
    row: Tensor
    accepted: Tensor | None


class _Items(NamedTuple):
    """Directions ``(N, d)``, mean resultant lengths ``(N,)`` and gates ``(N,)`` of items."""

    direction: Tensor
    length: Tensor
    gate: Tensor | None


class PosteriorIndex:
    r"""A gallery that is searched by the probability that a query matches its items.

        P(i matches j) = w_i rho_i rho_j g(mu_i . mu_j)

    ``w`` is the query's gate, ``rho`` a mean resultant length, ``mu`` a direction and ``g`` the
    posterior's link. Gate and length of the query do not change the order of its matches, but say
    what they are worth; the lengths of the gallery's items do change it. An item that equals the
    query is found like any other; among equal ones the order is not defined. The search is exact
    unless ``candidates`` are asked for. An index can be pickled.

    Args:
        posterior: Program with the match likelihood, from ``fit_posterior``. The index lives on its
            device.
        gallery: Items as ``posterior`` takes them, ``(M, ...)``; or a posterior that is there
            already, such as that of the partners in a fit to pairs.
        labels: Their classes, ``(M,)``, which ``calibrate`` needs.
        block: How many pairs are held at once, of queries and items: 64 MiB in float32 by default,
            and some of that size to compute them.
        candidates: How many of the nearest by the cosine are compared with a query, for galleries
            that are too large to compare with all: they are sought in a graph (extra ``index``),
            which misses some. An item that is less near is not found, however certain it is.

    Raises:
        ValueError: If matches were not the likelihood, or an argument does not fit.

    Example:
        >>> from probcl.programs import fit_posterior
        >>> y = torch.arange(200) % 4
        >>> z = torch.eye(8)[y] + 0.1 * torch.randn(200, 8)
        >>> index = PosteriorIndex(fit_posterior(z, y, steps=20), z[:150], labels=y[:150])
        >>> found = index.search(z[150:], k=3)
        >>> found.row.shape
        torch.Size([50, 3])
        >>> rule = index.calibrate(z[150:], y[150:], risk=0.3)
        >>> index.search(z[150:]).accepted.shape
        torch.Size([50])
    """

    def __init__(
        self,
        posterior: PostHoc,
        gallery: Any,
        *,
        labels: Any = None,
        block: int = 2**24,
        candidates: int | None = None,
    ) -> None:
        if not isinstance(posterior, PostHoc):
            raise ValueError(
                "posterior must be one that fit_posterior returned (of pairs, one of the two), got "
                f"{type(posterior).__name__}."
            )
        self.posterior = posterior
        self.block = check_count("block", block)
        self._link = posterior._link()
        #: The rule by which first matches are accepted, of the last ``calibrate``.
        self.abstention: Abstention | None = None
        if isinstance(gallery, VonMisesFisher):
            self._gallery = self._of_posterior(gallery)
        else:
            self._gallery = self._read("gallery", gallery)
        self.labels = None if labels is None else as_labels("labels", labels, len(self))
        self.candidates = len(self)
        self._graph: NearestGraph | None = None
        if candidates is not None:
            self.candidates = check_count("candidates", candidates)
            self._graph = NearestGraph(self._gallery.direction)

    def __len__(self) -> int:
        return len(self._gallery.length)

    def search(self, query: Any = None, k: int = 10) -> Found:
        """Find the likeliest matches of each query.

        Args:
            query: Items as the posterior takes them, ``(N, ...)``. By default the gallery's own,
                each among the others: its own row is left out, another that equals it is not.
            k: Number of matches, at most ``M``, or ``M - 1`` without a query, and at most as many
                as ``candidates``.

        Raises:
            ValueError: If ``k`` is out of range, or an argument does not fit.
        """
        most = min(len(self) - (query is None), self.candidates)
        if not 1 <= k <= most:
            raise ValueError(f"k must be from 1 to {most}, the items to find, got {k}.")
        probability, row = self._search(self._queries(query), k, query is None)
        rule = self.abstention
        return Found(probability, row, None if rule is None else rule(probability[:, 0]))

    def calibrate(
        self, query: Any, labels: Any, risk: float = 0.1, confidence: float = 0.9
    ) -> Abstention:
        """Choose when to trust a first match: among those accepted few are of another class.

        A query is accepted if the probability of its first match reaches a threshold. With the
        probability ``confidence`` over the queries given here, a new query that is accepted finds
        an item of another class first with a probability of ``risk`` at most, whatever the
        posterior is worth. A query whose class has no member in the gallery is an error if it is
        accepted. From here on ``search`` tells which of its queries are.

        Args:
            query: Items like those to come, neither in the gallery nor among those that the
                posterior was fitted to.
            labels: Their classes, ``(N,)``, numbered as the gallery's.
            risk: As ``fit_abstention`` takes it.
            confidence: The same.

        Raises:
            ValueError: If the gallery has no labels, no threshold keeps the risk, or an argument
                does not fit.

        Warns:
            UserWarning: If most queries equal an item of the gallery.

        References:
            Angelopoulos et al. (2021), Learn then Test. https://arxiv.org/abs/2110.01052
        """
        if self.labels is None:
            raise ValueError("labels of the gallery are needed: give PosteriorIndex labels.")
        if query is None:
            raise ValueError("query must be items that are not in the gallery, got None.")
        items = self._queries(query)
        classes = as_labels("labels", labels, len(items.length))
        self._warn_of_members(items.direction[:_LOOKED_AT])
        probability, row = (part[:, 0] for part in self._search(items, 1, False))
        error = self.labels[row] != classes
        self.abstention = fit_abstention(probability, error, risk, confidence)
        return self.abstention

    def _warn_of_members(self, direction: Tensor) -> None:
        """Warn if most of some directions ``(N, d)`` are in the gallery."""
        cosine = nearest(direction, self._gallery.direction, block=self.block).cosine
        equal = int((cosine > 1 - SAME).sum())
        if 2 * equal > len(direction):
            warnings.warn(
                f"query: {equal} of the first {len(direction)} equal an item of the gallery, which "
                "finds itself: give items that are not in it.",
                stacklevel=3,
            )

    @torch.no_grad()
    def _search(self, items: _Items, k: int, among: bool) -> tuple[Tensor, Tensor]:
        """Return probabilities and rows ``(N, k)``; ``among`` the gallery, or in it."""
        weight = items.length if items.gate is None else items.length * items.gate
        find, size = self._best, min(len(weight), math.isqrt(self.block))
        if self._graph is not None:
            pairs = self.candidates * items.direction.shape[1]
            find, size = self._best_of_candidates, max(1, min(size, self.block // pairs))
        parts = []
        for start in track("matches", range(0, len(weight), size)):
            own = slice(start, start + size)
            best, row = find(items.direction[own], k, start if among else None)
            parts.append(((best * weight[own, None]).cpu(), row.cpu()))
        probability, rows = (torch.cat(values) for values in zip(*parts, strict=True))
        return probability, rows

    def _best(self, direction: Tensor, k: int, own: int | None) -> tuple[Tensor, Tensor]:
        """Return the largest ``rho_j g(c_ij)`` of directions ``(B, d)``, and their rows.

        The gallery passes in blocks, and only the best up to each are kept. With ``own`` the
        directions are those of the gallery from that row on, and none finds itself.
        """
        others, lengths = self._gallery.direction, self._gallery.length
        width = self.block // len(direction)
        best = direction.new_empty(len(direction), 0)
        rows = best.long()
        for first in range(0, len(others), width):
            part = slice(first, first + width)
            score = self._link(direction @ others[part].T) * lengths[part]
            if own is not None:
                score.diagonal(own - first).fill_(-1.0)
            score, row = _largest(score, k)
            score, row = torch.cat([best, score], -1), torch.cat([rows, row + first], -1)
            best, column = _largest(score, k)
            rows = row.gather(1, column)
        return best, rows

    def _best_of_candidates(
        self, direction: Tensor, k: int, own: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return the same as ``_best``, among candidates only."""
        assert self._graph is not None
        others, lengths = self._gallery.direction, self._gallery.length
        count = min(self.candidates + (own is not None), len(self))
        rows, found = (x.to(others.device) for x in self._graph.nearest(direction, count))
        score = self._link(torch.linalg.vecdot(direction[:, None], others[rows])) * lengths[rows]
        if own is not None:
            itself = own + torch.arange(len(rows), device=rows.device)
            found &= rows != itself[:, None]
        best, column = _largest(score.where(found, -1.0), k)
        rows = rows.gather(1, column)
        for i in (best[:, -1] < 0).nonzero().flatten().tolist():  # the graph led to fewer than k
            one, start = slice(i, i + 1), None if own is None else own + i
            best[one], rows[one] = self._best(direction[one], k, start)
        return best, rows

    def _queries(self, query: Any) -> _Items:
        if query is not None:
            return self._read("query", query)
        if self._gallery.gate is None:
            raise ValueError("query is needed where the gallery is a posterior: give items.")
        return self._gallery

    @torch.no_grad()
    def _read(self, name: str, items: Any) -> _Items:
        """Return what a search needs of items, computed in blocks."""
        head: Any = self.posterior.posterior_head
        device = head.bank.embedding.device
        try:
            if head.width is None:
                parts = torch.as_tensor(items).split(_IMAGES)
                features = torch.cat([self.posterior.features(x.to(device)) for x in parts])
            else:
                features = self.posterior.features(items)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        found = []
        for part in features.split(math.isqrt(self.block)):
            q: Any = self.posterior.posterior_from_features(part)
            gate = self.posterior.gate_from_features(part)
            found.append((q.loc, q.mean_resultant_length, gate))
        return _Items(*(torch.cat(values) for values in zip(*found, strict=True)))

    def _of_posterior(self, gallery: VonMisesFisher) -> _Items:
        head: Any = self.posterior.posterior_head
        if len(gallery.batch_shape) != 1 or gallery.event_shape != (head.dim,):
            raise ValueError(
                f"gallery must have batch shape (M,) and event shape ({head.dim},), got "
                f"{tuple(gallery.batch_shape)} and {tuple(gallery.event_shape)}."
            )
        like = head.bank.embedding
        length = gallery.mean_resultant_length.detach()
        return _Items(gallery.loc.detach().to(like), length.to(like), None)


def _largest(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest of each row ``(N, M)``, or all, and their columns."""
    if k == 1:
        return score.max(-1, keepdim=True)  # three times as fast
    return score.topk(min(k, score.shape[-1]), dim=-1)
