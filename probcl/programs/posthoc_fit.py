"""Posteriors for embeddings that are there already, from arrays or a frozen encoder."""

import warnings
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probcl.checks import check_choice, check_count
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.subsets import held_out_rows
from probcl.programs.bank import SAME, Bank, Seen, cross_fitted, fit_bank
from probcl.programs.concentration import ConcentrationHead
from probcl.programs.events import (
    Events,
    Inputs,
    calibrate_link,
    fit_heads,
    match_error,
    mean_loss,
)  # fmt: skip
from probcl.programs.matches import Link
from probcl.programs.posthoc import Fit, Likelihood, PostHoc
from probcl.programs.reading import Reader, with_labels
from probcl.randomness import seeded

__all__ = ["fit_posterior"]

_PASSES = 2
_HELD_OUT = 10  # one item in ten
_MEMORY = 0.05  # how much better an embedding may find its own items than new ones
# What the head may see, by the likelihood. Of neighbours it may not see how near they are: that is
# what is observed.
_WITHOUT_CLASSES = (("embedding", "neighbours"), ("embedding",), ("neighbours",))
_INPUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "match": (
        ("neighbours", "probe", "agreement"),
        ("embedding", "neighbours", "probe", "agreement"),
        ("neighbours",),
    ),
    "neighbours": (("embedding",),),
    "pairs": _WITHOUT_CLASSES,
    "views": _WITHOUT_CLASSES,
}


def fit_posterior(
    items: Any,
    labels: Any = None,
    *,
    features: Any = None,
    held_out: Any = None,
    views: Any = None,
    pairs: Any = None,
    encoder: nn.Module | None = None,
    projection: nn.Module | None = None,
    likelihood: Likelihood | None = None,
    neighbours: int = 5,
    hidden: int = 128,
    steps: int = 800,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Any:
    r"""Give embeddings posteriors, at no loss of accuracy: fit only their concentration.

        max  mean_ij log Bernoulli(y_i = y_j; rho_i rho_j g(mu_i . mu_j)),  j near i

    With labels the likelihood is ``"match"``, above: an item and each of its nearest others are of
    one class with the probability that draws from their posteriors agree. Without, it is
    ``"neighbours"``: ``mu_j ~ vMF(mu_i, kappa(x_i))`` for the nearest, or ``"views"``, the same for
    other views of the item. With ``pairs`` it is ``"pairs"``: an item matches its own partner, and
    not the nearest others. What the head sees is chosen by the likelihood of items held out.

    Args:
        items: Embeddings ``(N, d)``, NumPy or PyTorch, of any length but zero, or ``Embeddings``;
            with an encoder images, a tensor ``(N, channels, height, width)`` or batches of images,
            each a tensor or a sequence that begins with one, as of a ``DataLoader``.
        labels: Classes ``(N,)``, integers, two at least, one of them of two items; -1 where it is
            not known: of 20 items or more such classes are predicted from the others.
        features: What the encoder says before its projection, ``(N, F)``, if there is more.
        held_out: Items that no encoder was trained on, as ``(items, labels)`` or ``Embeddings``, or
            alone where there are no labels; by default a tenth of the items.
        views: Embeddings of changed copies of the items, such as degraded images, a sequence of
            arrays or ``Embeddings``; with an encoder a map of images to changed images. With them
            the posterior is right for changed items too.
        pairs: Embeddings ``(N, d)`` of another kind, row by row of the same thing, such as captions
            of images: then two posteriors come back.
        encoder: Any network, images to features ``(N, F)``. It is frozen, in eval mode.
        projection: Features to the embedding before normalisation; None where the features are the
            embedding.
        likelihood: By default what the arguments allow, as above.
        neighbours: Number of others that are observed of each item.
        hidden: Hidden units of the head.
        steps: Steps of AdamW with batches of 256, the learning rate falling along a cosine.
        learning_rate: The first one.
        seed: Seed of the head and of the batches; the global random state is left alone.

    Returns:
        The program, in eval mode: ``posterior(items)`` is a distribution, ``posterior.fit`` says
        what it rests on. With ``pairs`` two, of the items and of their partners.

    Raises:
        ValueError: If an argument does not fit: lengths or dimensions differ, a row is not finite
            or zero, there is one class, or there are too few items.

    Warns:
        UserWarning: If the embedding memorises its items, so that those held out are fitted to.

    References:
        Kirchhof et al. (2023), https://arxiv.org/abs/2302.02865; Mukhoti et al. (2023),
        https://arxiv.org/abs/2102.11582, for the gate.

    Example:
        >>> y = torch.arange(200) % 4
        >>> z = torch.eye(8)[y] + 0.3 * torch.randn(200, 8)
        >>> posterior = fit_posterior(z, y, steps=20)
        >>> posterior(z[:3]).entropy().shape
        torch.Size([3])
        >>> posterior.match_probability(z[:3], z[:2]).shape
        torch.Size([3, 2])
    """
    if labels is None and isinstance(items, Embeddings):
        labels = items.labels
    chosen = _likelihood(likelihood, labels, views, pairs, held_out)
    for name, value in (("neighbours", neighbours), ("hidden", hidden), ("steps", steps)):
        check_count(name, value)
    if encoder is not None:
        encoder.eval()
    reader = Reader(encoder, projection)
    options = _Options(chosen, neighbours, hidden, steps, learning_rate)
    with torch.autocast("cpu", enabled=False), seeded(seed):
        with torch.no_grad():
            train = reader.read("embeddings", items, features)
            if len(train) < neighbours + 2:
                raise ValueError(
                    f"embeddings must be {neighbours + 2} at least for {neighbours} neighbours of "
                    f"each, got {len(train)}."
                )
            labelled = predicted = 0
            if chosen == "match":
                train, labelled = with_labels(train, labels)
                predicted = len(train) - labelled
            else:
                train = copy(train)
                train.labels = None
            copies = reader.copies(views, items, train, _PASSES * (1 + (chosen == "views")))
        if chosen == "pairs":
            return _fit_pairs(reader, train, reader.like("pairs", pairs, train, kin=False), options)
        parts = _held_out(reader, held_out, train, copies)
        head, fit = _fit_one(reader, *parts, options)
    fit = replace(fit, labelled=labelled, predicted=predicted)
    program = PostHoc(nn.Identity() if encoder is None else encoder, head, fit)
    if encoder is not None:
        head.to(next(encoder.parameters(), torch.zeros(0)).device)
    return program.eval()


@dataclass(frozen=True)
class _Options:
    """What a fit is asked for, as ``fit_posterior`` takes it."""

    likelihood: Likelihood
    neighbours: int
    hidden: int
    steps: int
    learning_rate: float


def _likelihood(given: Any, labels: Any, views: Any, pairs: Any, held_out: Any) -> Likelihood:
    """Return the likelihood, or raise ``ValueError`` if it needs what is not given."""
    if given is None:
        given = "pairs" if pairs is not None else "neighbours" if labels is None else "match"
    check_choice("likelihood", given, Likelihood)
    needed = {"match": ("labels", labels), "views": ("views", views), "pairs": ("pairs", pairs)}
    name, value = needed.get(given, ("", 0))
    if value is None:
        raise ValueError(f"{name} is needed for likelihood={given!r}: give {name}.")
    for name, value in {"views": views, "held_out": held_out}.items():
        if given == "pairs" and value is not None:
            raise ValueError(f"{name} cannot be used where pairs are fitted to: leave them out.")
    return given


def _held_out(
    reader: Reader, given: Any, train: Embeddings, copies: list[Embeddings]
) -> tuple[Embeddings, Embeddings, list[Embeddings]]:
    """Return the items to fit to, those held out, and the copies of the former.

    Without any given, a tenth of the items is held out; of fewer than 20 all are both.
    """
    if given is None:
        fold, rest = held_out_rows(len(train), _HELD_OUT)
        return _rows(train, rest), _rows(train, fold), [_rows(part, rest) for part in copies]
    items, labels = given, getattr(given, "labels", None)
    if isinstance(given, tuple | list) and len(given) == 2 and np.ndim(given[1]) < 2:
        items, labels = given
    held = reader.like("held_out", items, train)
    if train.labels is not None:
        if labels is None:
            raise ValueError("held_out must have labels: give (embeddings, labels).")
        held = with_labels(held, labels)[0]
        lacking = held.labels[~torch.isin(held.labels, train.labels)]
        if len(lacking):
            raise ValueError(
                f"held_out must have classes of the items, which lack {int(lacking[0])}: leave it "
                "out."
            )
    return train, held, copies


def _rows(items: Embeddings, rows: Tensor) -> Embeddings:
    """Return some items, ``(K,)`` rows."""
    labels = None if items.labels is None else items.labels[rows]
    return Embeddings(
        items.embedding[rows], labels, items.features[rows] if items.has_features else None
    )


def _fit_one(
    reader: Reader,
    train: Embeddings,
    held: Embeddings,
    copies: list[Embeddings],
    options: _Options,
) -> tuple[ConcentrationHead, Fit]:
    """Fit to items, choosing what the head sees by the likelihood of items held out."""
    with torch.no_grad():
        bank = fit_bank(train, held)
        own, sets = torch.arange(len(train)), [train, *copies]
        p = cross_fitted(train, sets) if train.labelled else [None] * len(sets)
        seen = [_see(bank, items, own, q) for items, q in zip(sets, p, strict=True)]
        new = _see(bank, held)
    memorises, (own_recall, held_out_recall) = _memorises(train, seen[0], held, new)

    def events(head: ConcentrationHead) -> tuple[list[Events], Events]:
        if options.likelihood == "views":
            whole = _of_views(seen[0].inputs, train, copies, head)
            return _parted(whole, 5)
        others = seen[0].inputs
        chosen = _of_neighbours(new, held, held.labels, train, others, head, options.neighbours)
        if memorises:
            return _parted(chosen, 5)
        return [
            _of_neighbours(part, items, train.labels, train, others, head, options.neighbours)
            for part, items in zip(seen, sets, strict=True)
        ], chosen

    start = 2.0 if train.labelled else _start(seen[0].neighbours.cosine[:, : options.neighbours])
    tried = []
    for names in _INPUTS[options.likelihood]:
        link = Link() if train.labelled else None
        head = reader.head(bank, names, seen[0].inputs, options.hidden, start, link)
        fitted, chosen = events(head)
        if link is not None:  # a cosine has a scale of its own
            calibrate_link(fitted)
        fit_heads(fitted, options.steps, options.learning_rate)
        tried.append((mean_loss(chosen), names, head, chosen))
    loss, names, head, chosen = min(tried, key=lambda one: one[0])
    error = match_error(chosen)
    if train.labelled:
        calibrate_link([chosen])
    with torch.no_grad():
        bank.length.copy_(head.resultant_length(seen[0].inputs))
    to = "held-out items" if memorises else "training items"
    return head, Fit(
        options.likelihood, len(train), labelled=0, predicted=0, held_out=len(held), fitted_to=to,
        own_recall=own_recall, held_out_recall=held_out_recall, inputs=names, held_out_loss=loss,
        calibration_error=error,
    )  # fmt: skip


def _of_neighbours(
    seen: Seen,
    items: Embeddings,
    labels: Any,
    train: Embeddings,
    others: Inputs,
    head: Any,
    count: int,
) -> Events:
    """Return items with their nearest of the bank, matched by class if there are classes."""
    row, towards = seen.neighbours.row[:, :count], train.direction.float()
    matched = None
    if train.labels is not None:
        matched = (train.labels[row] == labels[:, None]).float()
    cosine, direction = seen.neighbours.cosine[:, :count], items.direction.float()
    return Events(head, seen.inputs, direction, row, cosine, matched, others, towards, head)


def _of_views(inputs: Inputs, train: Embeddings, copies: list[Embeddings], head: Any) -> Events:
    """Return each item with its changed copies, all positives."""
    towards = torch.cat([part.direction.float() for part in copies])
    row = torch.arange(len(towards)).view(len(copies), -1).T
    direction = train.direction.float()
    cosine = torch.linalg.vecdot(direction[:, None], towards[row])
    return Events(head, inputs, direction, row, cosine, None, inputs, towards, head)


def _parted(events: Events, parts: int) -> tuple[list[Events], Events]:
    """Return the events to fit to, and one in ``parts`` to choose by; of few all are both."""
    fold, rest = held_out_rows(len(events), parts)
    return [events.at_rows(rest)], events.at_rows(fold)


def _see(bank: Bank, items: Embeddings, own: Tensor | None = None, p: Tensor | None = None) -> Any:
    return bank.see(items.features.float(), items.direction.float(), own, p)


def _start(cosine: Tensor) -> float:
    """Return the logit of the mean resultant length that suits all items best."""
    return float(torch.logit(cosine.mean().clamp(1e-3, 1 - 1e-3)))


def _memorises(
    train: Embeddings, own: Seen, held: Embeddings, new: Seen
) -> tuple[bool, tuple[float | None, float | None]]:
    """Tell if an embedding finds its own items better than new ones, and both recalls at 1."""
    labels = train.labels
    if labels is None:
        return False, (None, None)
    ours = (labels[own.neighbours.row[:, 0]] == labels).double().mean().item()
    theirs = (labels[new.neighbours.row[:, 0]] == held.labels).double().mean().item()
    spread = (theirs * (1 - theirs) / len(held)) ** 0.5
    memorises = ours - theirs > _MEMORY + 3 * spread
    if memorises:
        warnings.warn(
            f"the embedding memorises its items (R@1 {ours:.2f} among themselves, {theirs:.2f} of "
            "items held out): the posterior is fitted to those held out.",
            stacklevel=4,
        )
    return memorises, (ours, theirs)


def _fit_pairs(
    reader: Reader, train: Embeddings, other: Embeddings, options: _Options
) -> tuple[PostHoc, PostHoc]:
    """Fit one posterior to items and one to their partners, with one link."""
    if len(other) != len(train):
        raise ValueError(
            f"pairs must have a row for each of the {len(train)} items, got {len(other)}."
        )
    kinds = [_held_out(reader, None, part, [])[:2] for part in (train, other)]
    own = torch.arange(len(kinds[0][0]))
    with torch.no_grad():
        banks = [fit_bank(*kinds[i], kinds[1 - i][0].direction) for i in (0, 1)]
        # Of each kind, what is seen of the items to fit to, and of those held out.
        seen = [[_see(bank, kind[0], own), _see(bank, kind[1])]
                for bank, kind in zip(banks, kinds, strict=True)]  # fmt: skip
    tried = []
    for names in _INPUTS["pairs"]:
        link = Link()
        heads = [
            reader.head(bank, names, parts[0].inputs, options.hidden, 2.0, link)
            for bank, parts in zip(banks, seen, strict=True)
        ]
        fitted, chosen = (
            [_of_partners(kinds, seen, heads, kind, part, options.neighbours) for kind in (0, 1)]
            for part in (0, 1)
        )
        calibrate_link(fitted)
        fit_heads(fitted, options.steps, options.learning_rate)
        tried.append((sum(map(mean_loss, chosen)) / 2, names, heads, chosen))
    loss, names, heads, chosen = min(tried, key=lambda one: one[0])
    error = match_error(chosen[0])
    calibrate_link(chosen)
    with torch.no_grad():
        for bank, head, parts in zip(banks, heads[::-1], seen[::-1], strict=True):
            bank.length.copy_(head.resultant_length(parts[0].inputs))
    held = len(kinds[0][1])
    fit = Fit(
        "pairs", len(own), labelled=0, predicted=0, held_out=held, fitted_to="training items",
        own_recall=None, held_out_recall=None, inputs=names, held_out_loss=loss,
        calibration_error=error,
    )  # fmt: skip
    one, two = (PostHoc(nn.Identity(), head, fit).eval() for head in heads)
    return one, two


def _of_partners(
    kinds: list[Any], seen: list[list[Seen]], heads: list[Any], kind: int, part: int, count: int
) -> Events:
    """Return items with their partners, which match, and the nearest others, which do not."""
    items, own, other = kinds[kind][part], seen[kind][part], 1 - kind
    towards = torch.cat([half.direction.float() for half in kinds[other]])
    inputs = {
        name: torch.cat([half.inputs[name] for half in seen[other]])
        for name in seen[other][0].inputs
    }
    partner = torch.arange(len(items)) + part * len(kinds[other][0])
    row = torch.cat([partner[:, None], own.neighbours.row[:, :count]], -1)
    direction = items.direction.float()
    cosine = torch.linalg.vecdot(direction[:, None], towards[row])
    # Another that equals the partner, such as the same caption, matches too.
    same = torch.linalg.vecdot(towards[row[:, :1]], towards[row]) > 1 - SAME
    return Events(
        heads[kind], own.inputs, direction, row, cosine, same.float(), inputs, towards, heads[other]
    )
