"""The evidence lower bound of a contrastive program, term by term."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBO, ELBOModule
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.nn import PyroModule
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor, nn

from probcl.checks import check_choice
from probcl.infer.divergence import KL, divergence

__all__ = ["ContrastiveELBO", "ContrastiveLoss"]


class ContrastiveELBO(ELBO):
    r"""Negative ELBO of a model and guide, with a choice of estimator for each KL.

    For observed sites ``x`` (the contrastive factor among them) and latent sites ``z``,

        loss = -sum_x log p(x | z) + sum_z KL(q(z) || p(z)),   z ~ q

    each term with the scale and mask of its site, a KL with the guide's. A program states its
    weights (``beta``, ``1/d``, ``1/B``) as scales, so that stock Pyro objectives give the same
    loss. A latent without reparametrised samples, such as VarCon's class, has its exact KL whatever
    the estimator; nothing may depend on its sample.

    Args:
        kl: How to estimate KL(q || p) of each latent site: ``"exact"`` by
            ``torch.distributions.kl_divergence``; ``"gaussian_bound"``, the upper bound for a
            projected normal against the uniform that the VCL paper trains with;
            ``"monte_carlo"``, ``log q(z) - log p(z)`` at the sample; ``"auto"``: exact where a
            divergence is registered, else Monte Carlo. One for all sites, or a mapping from the
            name of a site, ``"auto"`` for those it leaves out.

    Attributes:
        kl_weight: Factor on the KL of all reparametrised latents, on top of the program's own
            ``beta``. Set it before a step to anneal, as ``ContrastiveModule`` does from a schedule.

    References:
        Jeong, Kim, Hero (2025), as for ``VSimCLR``. https://arxiv.org/abs/2506.10159

    Example:
        Fit with plain Pyro, or use as a module in any torch loop::

            svi = pyro.infer.SVI(program.model, program.guide, optim, loss=ContrastiveELBO())
            loss = ContrastiveELBO()(program.model, program.guide)
            loss(views).backward()
    """

    def __init__(self, kl: KL | Mapping[str, KL] = "auto") -> None:
        for estimator in kl.values() if isinstance(kl, Mapping) else [kl]:
            check_choice("kl", estimator, KL)
        super().__init__()
        self.kl = kl
        self.kl_weight = 1.0

    def __call__(self, model: Callable, guide: Callable) -> "ContrastiveLoss":
        """Return the loss of ``model`` and ``guide`` as a module that owns their parameters."""
        return ContrastiveLoss(model, guide, self)

    def terms(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return each term of the loss, named after its site (``kl_`` before a latent's name).

        Each can be differentiated. A site that is masked out as a whole has no term.
        """
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        self._check_names(guide_trace)
        terms: dict[str, Tensor] = {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            of_guide = None if site["is_observed"] else guide_trace.nodes.get(name)
            if site["mask"] is False and (of_guide is None or of_guide["mask"] is False):
                continue
            if site["is_observed"]:
                _check_shape(site, site["log_prob"])
                terms[name] = -site["log_prob_sum"]
            elif of_guide is not None:
                terms[f"kl_{name}"] = self._kl_term(name, site, of_guide)
            else:
                raise NotImplementedError(
                    f"the guide has no site {name!r}, which the model draws: add it to the guide."
                )
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and site["mask"] is not False and name not in model_trace:
                terms[f"kl_{name}"] = self._auxiliary_term(name, site)
        return {name: _independent_of_samples(name, term) for name, term in terms.items()}

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss, a scalar that can be differentiated."""
        terms = list(self.terms(model, guide, *args, **kwargs).values())
        return sum(terms[1:], start=terms[0]) if terms else torch.zeros(())

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            loss = torch_item(self.differentiable_loss(model, guide, *args, **kwargs))
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, its gradients added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        warn_if_nan(torch_item(loss), "loss")
        return torch_item(loss)

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        messenger = poutine.unwrap(guide)
        runs_the_model = isinstance(messenger, GuideMessenger)
        with _MarkDiscrete():
            if runs_the_model:
                guide(*args, **kwargs)
            else:
                guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        if runs_the_model:
            model_trace, guide_trace = messenger.get_traces()
        else:  # unmarked: a discrete latent of the model alone is its own affair
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace)
        model_trace = prune_subsample_sites(model_trace)
        # Latent sites enter through their divergence: only observed densities are needed here.
        model_trace.compute_log_prob(site_filter=lambda name, site: site["is_observed"])
        return model_trace, prune_subsample_sites(guide_trace)

    def _auxiliary_term(self, name: str, site: dict) -> Tensor:
        """Return ``log q`` of a latent or a factor that the guide alone has."""
        if not site["fn"].has_rsample:
            raise NotImplementedError(
                f"ContrastiveELBO cannot differentiate the guide's auxiliary site {name!r}: use a "
                "posterior or a factor with has_rsample=True."
            )
        return _total(site, site["fn"].log_prob(site["value"]))

    def _kl_term(self, name: str, model_site: dict, guide_site: dict) -> Tensor:
        """Return the divergence at one latent site, summed.

        It has the guide's scale and mask; of densities at the sample, each has its own site's.
        """
        q, p, z = guide_site["fn"], model_site["fn"], guide_site["value"]
        estimator = self.kl.get(name, "auto") if isinstance(self.kl, Mapping) else self.kl
        exact = divergence(name, q, p, estimator)
        if exact is None:
            try:
                total = _total(guide_site, q.log_prob(z)) - _total(model_site, p.log_prob(z))
            except NotImplementedError as error:
                raise NotImplementedError(
                    f"site {name!r} has no exact KL of {type(q).__name__} from {type(p).__name__}, "
                    "nor have both a density: give them log_prob, register a KL by "
                    "torch.distributions.kl.register_kl, or set beta to 0."
                ) from error
        else:
            total = _total(guide_site, exact)
        return total if self.kl_weight == 1 or not q.has_rsample else self.kl_weight * total

    def _check_names(self, guide_trace: Trace) -> None:
        """Raise ValueError if an estimator is given for a site that the guide does not have."""
        latents = set(guide_trace.stochastic_nodes)
        unknown = sorted(set(self.kl) - latents) if isinstance(self.kl, Mapping) else []
        if unknown:
            raise ValueError(
                f"kl names {', '.join(map(repr, unknown))}, but the guide's latent sites are "
                f"{', '.join(map(repr, sorted(latents))) or 'none'}."
            )


def _check_shape(site: dict, log_prob: Tensor) -> None:
    """Raise ValueError, in Pyro's words, unless a site's share of the loss fits its plates."""
    if is_validation_enabled():
        check_site_shape({**site, "log_prob": log_prob}, math.inf)


def _total(site: dict, value: Tensor) -> Tensor:
    """Sum a site's share of the loss, with the scale and the mask of the site."""
    _check_shape(site, value)
    return scale_and_mask(value, site["scale"], site["mask"]).sum()


class _MarkDiscrete(Messenger):
    """Mark samples that cannot be differentiated, so that what depends on them is found."""

    def _pyro_post_sample(self, msg: dict) -> None:
        if not (msg["is_observed"] or msg["fn"].has_rsample or site_is_subsample(msg)):
            msg["value"] = track_provenance(msg["value"], frozenset({msg["name"]}))


def _independent_of_samples(name: str, term: Tensor) -> Tensor:
    """Return a term, or raise if it depends on a sample that cannot be differentiated."""
    sources = get_provenance(term)
    if not sources:
        return detach_provenance(term)
    raise NotImplementedError(
        f"ContrastiveELBO cannot differentiate {name!r}: it depends on the sample of "
        f"{', '.join(map(repr, sorted(sources)))}, whose posterior has no reparametrised samples. "
        "Use one with has_rsample=True, or enumerate the latent with pyro.infer.TraceEnum_ELBO."
    )


class ContrastiveLoss(ELBOModule):
    """Loss of one model and guide: a module that owns their parameters.

    Any torch optimizer, scheduler and checkpoint works. The parameters stay out of Pyro's global
    store, but for those of a ``PyroModule``, such as an autoguide, that was made while Pyro's
    setting ``module_local_params`` was off, as by default.

    Args:
        model: The program's model, a Pyro callable.
        guide: The program's guide, a Pyro callable with the same arguments.
        elbo: The objective.
    """

    def __init__(self, model: Callable, guide: Callable, elbo: ContrastiveELBO) -> None:
        super().__init__(model, guide, elbo)
        # A bound method hides the module its parameters live in: register that module.
        owners = (getattr(function, "__self__", None) for function in (model, guide))
        modules = dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module))
        self.owners = nn.ModuleList(modules)
        contexts = [m._pyro_context for m in self.modules() if isinstance(m, PyroModule)]
        self._local = all(hasattr(context, "param_state") for context in contexts)

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return each term of the loss, as ``ContrastiveELBO.terms``."""
        with pyro.settings.context(module_local_params=self._local):
            return self.elbo.terms(self.model, self.guide, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, a scalar that can be differentiated."""
        with pyro.settings.context(module_local_params=self._local):
            return super().forward(*args, **kwargs)
