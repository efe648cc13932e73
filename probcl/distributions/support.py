"""The unit sphere as the support of a sample site."""

from typing import Any, NoReturn

import torch.distributions
from pyro.distributions import constraints
from torch.distributions import biject_to, transform_to

__all__ = ["is_sphere", "unit_sphere"]


class _UnitSphere(type(constraints.sphere)):  # type: ignore[misc]
    """Pyro's sphere, which tells those who need free coordinates how to get them."""


unit_sphere = _UnitSphere()
# Of the lowest torch allowed a mixture has the support of its components.
_Mixture = getattr(torch.distributions.constraints, "MixtureSameFamilyConstraint", _UnitSphere)


@transform_to.register(unit_sphere)
def _transform_to(constraint: Any) -> Any:
    return transform_to(constraints.sphere)


@transform_to.register(_Mixture)
def _transform_to_mixture(constraint: Any) -> Any:
    """Seek initial values of mixtures on the sphere, which torch leaves out."""
    if not is_sphere(constraint):
        raise NotImplementedError(f"Cannot transform {type(constraint).__name__} constraints")
    return transform_to(constraints.sphere)


@biject_to.register(_Mixture)
@biject_to.register(unit_sphere)
def _biject_to(constraint: Any) -> NoReturn:
    if not is_sphere(constraint):
        raise NotImplementedError(f"Cannot biject {type(constraint).__name__} constraints")
    raise ValueError(
        "A sample site on the sphere has no unconstrained coordinates; free it with"
        " poutine.reparam(model, config={'site': SphereReparam()}), or guide it with AutoSphere."
    )


def is_sphere(support: Any) -> bool:
    """Say whether a support is the sphere, also as that of an event or of a mixture.

    Args:
        support: A constraint, such as the ``support`` of a distribution.

    Example:
        >>> import torch
        >>> from probcl.distributions import VonMisesFisher
        >>> is_sphere(VonMisesFisher(torch.eye(3), 2.0).to_event(1).support)
        True
        >>> is_sphere(constraints.real_vector)
        False
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(constraints.sphere))
