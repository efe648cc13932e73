"""The evidence lower bound of a contrastive program, term by term."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBO, ELBOModule
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor, nn
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal
from probcl.distributions.kl import gaussian_bound

__all__ = ["KL", "ContrastiveELBO", "ContrastiveLoss"]

KL = Literal["auto", "exact", "gaussian_bound", "monte_carlo"]


class ContrastiveELBO(ELBO):
    r"""Negative ELBO of a model and guide, with a choice of estimator for each KL.

    For observed sites ``x`` (the contrastive factor among them) and reparametrised latent
    sites ``z``,

        loss = -sum_x log p(x | z) + sum_z KL(q(z) || p(z)),   z ~ q,

    each term with the scale and mask of its site. A program states its weights (``beta``, ``1/d``,
    ``1/B``) as scales, so that stock Pyro objectives give the same loss.

    Args:
        kl: How to estimate KL(q || p) of each latent site: ``"exact"`` by
            ``torch.distributions.kl_divergence``; ``"gaussian_bound"``, the upper bound for a
            projected normal against the uniform that the VCL paper trains with;
            ``"monte_carlo"``, ``log q(z) - log p(z)`` at the sample; ``"auto"``: exact where a
            divergence is registered, else Monte Carlo.
        num_particles: Number of posterior samples the loss is averaged over.

    References:
        Jeong, Kim, Hero (2025), Probabilistic Variational Contrastive Learning.
        https://arxiv.org/abs/2506.10159

    Example:
        Fit with plain Pyro, or use as a module in any torch loop::

            svi = pyro.infer.SVI(program.model, program.guide, optim, loss=ContrastiveELBO())
            loss = ContrastiveELBO()(program.model, program.guide)
            loss(views).backward()
    """

    def __init__(self, kl: KL = "auto", num_particles: int = 1) -> None:
        estimators = get_args(KL)
        if kl not in estimators:
            raise ValueError(f"kl must be one of {', '.join(estimators)}, got {kl!r}.")
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}.")
        super().__init__(num_particles=num_particles)
        self.kl = kl

    def __call__(self, model: Callable, guide: Callable) -> "ContrastiveLoss":
        """Return the loss of ``model`` and ``guide`` as a module that owns their parameters."""
        return ContrastiveLoss(model, guide, self)

    def terms(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return each term of the loss, named after its site (``kl_`` before a latent's name).

        The loss is the sum of the terms, and each can be differentiated.
        """
        total: dict[str, Tensor] = {}
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            for name, term in self._particle_terms(model_trace, guide_trace).items():
                total[name] = total.get(name, 0.0) + term / self.num_particles
        return total

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss, a scalar that can be differentiated."""
        terms = list(self.terms(model, guide, *args, **kwargs).values())
        return sum(terms[1:], start=terms[0])

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
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace)
        model_trace = prune_subsample_sites(model_trace)
        # Latent sites enter through their divergence: only observed densities are needed here.
        model_trace.compute_log_prob(site_filter=lambda name, site: site["is_observed"])
        if is_validation_enabled():
            for site in model_trace.nodes.values():
                if site["type"] == "sample" and site["is_observed"]:
                    check_site_shape(site, self.max_plate_nesting)
        return model_trace, prune_subsample_sites(guide_trace)

    def _particle_terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                terms[name] = -site["log_prob_sum"]
            else:
                terms[f"kl_{name}"] = self._kl_term(name, site, guide_trace.nodes[name])
        return terms

    def _kl_term(self, name: str, model_site: dict, guide_site: dict) -> Tensor:
        """Estimate the divergence at one latent site, summed with the guide's scale and mask."""
        q, p = guide_site["fn"], model_site["fn"]
        if not q.has_rsample:
            raise NotImplementedError(
                f"ContrastiveELBO needs reparametrised samples, and the guide's site {name!r} has "
                f"a {type(q).__name__} without them: use a posterior with has_rsample=True."
            )
        value = self._kl(q, p, guide_site["value"])
        return scale_and_mask(value, guide_site["scale"], guide_site["mask"]).sum()

    def _kl(self, q: Any, p: Any, z: Tensor) -> Tensor:
        if self.kl == "gaussian_bound":
            if not (isinstance(q, ProjectedNormal) and isinstance(p, HypersphericalUniform)):
                raise ValueError(
                    "kl='gaussian_bound' is for a ProjectedNormal against a uniform prior, got "
                    f"{type(q).__name__} against {type(p).__name__}: use kl='auto'."
                )
            return gaussian_bound(q)
        if self.kl != "monte_carlo":
            try:
                return kl_divergence(q, p)
            except NotImplementedError as error:
                if self.kl == "exact":
                    raise ValueError(
                        f"no exact divergence of {type(q).__name__} from {type(p).__name__} is "
                        "registered: use kl='auto'."
                    ) from error
        return q.log_prob(z) - p.log_prob(z)


class ContrastiveLoss(ELBOModule):
    """Loss of one model and guide: a module that owns their parameters.

    The parameters stay in the modules and out of Pyro's global store, so that one torch
    optimizer, any scheduler and any checkpoint work as usual.

    Args:
        model: The program's model, a Pyro callable.
        guide: The program's guide, a Pyro callable with the same arguments.
        elbo: The objective.
    """

    def __init__(self, model: Callable, guide: Callable, elbo: ContrastiveELBO) -> None:
        super().__init__(model, guide, elbo)
        # A bound method hides the module its parameters live in: register that module.
        owners = {id(owner): owner for owner in map(_owner, (model, guide)) if owner is not None}
        self.owners = nn.ModuleList(owners.values())

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return each term of the loss, as ``ContrastiveELBO.terms``."""
        with pyro.settings.context(module_local_params=True):
            return self.elbo.terms(self.model, self.guide, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, a scalar that can be differentiated."""
        with pyro.settings.context(module_local_params=True):
            return super().forward(*args, **kwargs)


def _owner(function: Callable) -> nn.Module | None:
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
