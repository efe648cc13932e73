"""Special functions with their own derivatives."""

from probcl.special.bessel import (
    bessel_ratio,
    bessel_ratio_deficit,
    bessel_ratio_derivative,
    bessel_ratio_over_kappa,
    inverse_bessel_ratio,
    log_bessel,
    log_bessel_deficit,
    log_bessel_divergence,
)
from probcl.special.radial import log_radial_integral, log_radial_ratio

__all__ = [
    "bessel_ratio",
    "bessel_ratio_deficit",
    "bessel_ratio_derivative",
    "bessel_ratio_over_kappa",
    "inverse_bessel_ratio",
    "log_bessel",
    "log_bessel_deficit",
    "log_bessel_divergence",
    "log_radial_integral",
    "log_radial_ratio",
]
