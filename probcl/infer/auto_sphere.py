"""An autoguide for models in which some latents are directions."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuide, AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import InitMessenger, init_to_feasible, init_to_sample
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from pyro.ops.tensor_utils import periodic_repeat
from torch import Tensor

from probcl.checks import check_amount
from probcl.distributions import ProjectedNormal, SphereDistribution, VonMisesFisher
from probcl.distributions.support import is_sphere, unit_sphere

__all__ = ["AutoSphere"]


class AutoSphere(AutoGuideList):
    r"""Guide latent directions by distributions on the sphere, and all else by normals.

    A site on the sphere has the guide :math:`\mathrm{vMF}(\mu, 1/s^2)`, or the projected normal
    :math:`\mathrm{PN}(\mu, \mathrm{diag}(s^2))` with one scale for each coordinate, where mu is a
    unit vector; every other site has that of ``AutoNormal``. The sites are independent of each
    other, so the guide is too narrow where the posterior ties them together. As Pyro's own
    autoguides do, it takes plates and subsampling, works with every ELBO that takes reparametrised
    guides, and may be a part of an ``AutoGuideList``.

    Args:
        model: A Pyro model.
        family: ``VonMisesFisher`` or ``ProjectedNormal``, the guide of directions.
        init_loc_fn: Initial value of each site, as in ``AutoNormal``; a site for which it has none
            starts at a draw from its prior.
        init_scale: Initial s of directions, and initial standard deviation of other sites.
        create_plates: Function of the model's arguments that returns the plates to subsample.

    Raises:
        ValueError: If ``family`` or ``init_scale`` does not fit; at the first call, if a site is
            improper and has no initial value, or is discrete.

    References:
        Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference",
        https://jmlr.org/papers/v18/16-107.html

    Example:
        >>> import pyro.distributions as dist
        >>> from probcl.distributions import HypersphericalUniform
        >>> def model(data):
        ...     kappa = pyro.sample("kappa", dist.LogNormal(2.0, 1.0))
        ...     z = pyro.sample("z", HypersphericalUniform(3))
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("x", VonMisesFisher(z, kappa), obs=data)
        >>> pyro.clear_param_store()
        >>> guide = AutoSphere(model)
        >>> {name: value.shape for name, value in guide(torch.eye(3)).items()}
        {'kappa': torch.Size([]), 'z': torch.Size([3])}
        >>> guide.directions()["z"].concentration
        tensor(100.0000)
        >>> sorted(guide.median()), sorted(guide.quantiles([0.05, 0.95]))
        (['kappa', 'z'], ['kappa'])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        family: type[SphereDistribution] = VonMisesFisher,
        init_loc_fn: Callable[..., Any] = init_to_feasible,
        init_scale: float = 0.1,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        if family not in (VonMisesFisher, ProjectedNormal):
            raise ValueError(f"family must be VonMisesFisher or ProjectedNormal, got {family!r}.")
        self._family = family
        self._init_scale = float(check_amount("init_scale", init_scale, above=True))
        model = InitMessenger(_with_draws(init_loc_fn))(model)
        super().__init__(model, create_plates=create_plates)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        sites = self.prototype_trace.iter_stochastic_nodes()
        # One part for each run of sites of one kind: ELBOs ask for the order of the model.
        for on_sphere, run in groupby(sites, lambda item: is_sphere(item[1]["fn"].support)):
            part = poutine.block(self.model, expose=[name for name, _ in run])
            if on_sphere:
                self.append(_AutoDirections(part, self._family, self._init_scale))
            else:
                self.append(AutoNormal(part, init_scale=self._init_scale))

    def directions(self) -> dict[str, SphereDistribution]:
        """Return the guide of every site on the sphere by name, in full where it is subsampled.

        Empty before the guide has been called for the first time. No gradient flows.
        """
        parts = [part for part in self if isinstance(part, _AutoDirections)]
        with torch.no_grad():
            return {name: part.posterior(name) for part in parts for name in part.names()}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the median of every site by name, and for directions their mean direction."""
        return super().median(*args, **kwargs)

    def quantiles(
        self, quantiles: list[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return quantiles of every site but the directions, which have no order, by name.

        Args:
            quantiles: Numbers between 0 and 1, ``(Q,)``.
            *args: As for the model.
            **kwargs: As for the model.

        Returns:
            Quantiles by name, each of shape ``(Q, *)``. For directions ask :meth:`directions`.
        """
        return super().quantiles(quantiles, *args, **kwargs)


class _AutoDirections(AutoGuide):
    """The part of :class:`AutoSphere` on the sphere."""

    def __init__(
        self, model: Callable[..., Any], family: type[SphereDistribution], init_scale: float
    ) -> None:
        self._family, self._init_scale = family, init_scale
        super().__init__(model)

    def names(self) -> list[str]:
        if self.prototype_trace is None:
            return []
        return [name for name, _ in self.prototype_trace.iter_stochastic_nodes()]

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.locs, self.scales = PyroModule(), PyroModule()
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            # A copy: training would move the caller's initial value.
            loc, event_dim = site["value"].detach().clone(), site["fn"].event_dim
            for frame in site["cond_indep_stack"]:
                full_size = frame.full_size or frame.size
                if full_size != frame.size:
                    loc = periodic_repeat(loc, full_size, frame.dim - event_dim).contiguous()
            scale = torch.full_like(loc, self._init_scale)
            scale_dim = event_dim
            if self._family is VonMisesFisher:
                scale, scale_dim = scale[..., 0].contiguous(), event_dim - 1
            deep_setattr(self.locs, name, PyroParam(loc, unit_sphere, event_dim))
            positive = constraints.softplus_positive
            deep_setattr(self.scales, name, PyroParam(scale, positive, scale_dim))

    def posterior(self, name: str) -> SphereDistribution:
        loc, scale = attrgetter(name)(self.locs), attrgetter(name)(self.scales)
        spread = scale**-2 if self._family is VonMisesFisher else scale
        return self._family(loc, spread)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        result = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                guide = self.posterior(name).to_event(site["fn"].event_dim - 1)
                result[name] = pyro.sample(name, guide)
        return result

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {name: self.posterior(name).mean_direction.clone() for name in self.names()}

    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {}


def _with_draws(init_loc_fn: Callable[..., Any]) -> Callable[[dict[str, Any]], Tensor]:
    """Let a site start at a draw where the function has no value, as for mixtures."""

    def initial(site: dict[str, Any]) -> Tensor:
        try:
            value: Tensor = init_loc_fn(site)
        except NotImplementedError:
            try:
                value = init_to_sample(site)
            except NotImplementedError:
                raise ValueError(
                    f"Site {site['name']!r} is improper, so that nothing can be drawn from it; give"
                    " it a proper prior, or a value by init_loc_fn=init_to_value(values=...)."
                ) from None
        return value

    return initial
