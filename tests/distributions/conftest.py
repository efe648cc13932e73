"""The table of distributions that the shared battery runs on: one row each.

To put a distribution under the battery, add a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

import probcl.distributions as dist


@dataclass(frozen=True)
class Row:
    """A distribution with example parameters of batch shape (2,), and one of each wrong kind."""

    name: str
    cls: Callable[..., Distribution]
    params: dict[str, list]  # tensors as nested lists; batch shape (2,)
    dim: int
    constants: dict[str, int] = field(default_factory=dict)  # arguments that are no tensors
    bad_params: tuple[tuple[dict, str], ...] = ()  # replaced parameters, pattern of the error

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=dtype) for name, value in self.params.items()}

    def build(self, dtype: torch.dtype = torch.float64) -> Distribution:
        if self.params:
            return self.cls(**self.tensors(dtype), **self.constants)
        return self.cls(**self.constants, dtype=dtype).expand([2])

    def one(self, dtype: torch.dtype = torch.float64) -> Distribution:
        """Build the first element of the batch alone."""
        if self.params:
            params = {name: value[0] for name, value in self.tensors(dtype).items()}
            return self.cls(**params, **self.constants)
        return self.cls(**self.constants, dtype=dtype)


UNIT = [[0.36, 0.48, 0.8], [1.0, 0.0, 0.0]]
LOC = [[0.8, -0.4, 1.1], [0.0, 0.0, 0.0]]
NAN, INF = float("nan"), float("inf")
BAD_LOC = (
    ({"loc": [[NAN, 0.0, 1.0]] * 2}, "loc must be finite, got nan"),
    ({"loc": [[1.0], [2.0]]}, "at least 2"),
)

AXIAL_PARAMS = {"loc": UNIT, "concentration": [3.0, 0.0]}
BAD_AXIAL = (
    ({"loc": [[0.0, 0.0, 0.0]] * 2}, "loc must hold unit vectors, got a norm of 0"),
    ({"loc": [[NAN, 0.0, 1.0]] * 2}, "loc must be finite, got 2 of 2"),
    ({"loc": [[1.0], [1.0]]}, "at least 2"),
    ({"concentration": [-1.0, 2.0]}, "concentration must be non-negative and finite, got -1.0"),
    ({"concentration": [NAN, 2.0]}, "concentration must be non-negative and finite, got nan"),
    ({"concentration": [[1.0], [2.0]]}, r"concentration has shape \(2, 1\)"),
    ({"concentration": [1.0, 2.0, 3.0]}, "does not broadcast"),
)

TABLE = [
    Row("uniform", dist.HypersphericalUniform, {}, 3, {"dim": 3}),
    Row("von_mises_fisher", dist.VonMisesFisher, AXIAL_PARAMS, 3, bad_params=BAD_AXIAL),
    Row("power_spherical", dist.PowerSpherical, AXIAL_PARAMS, 3, bad_params=BAD_AXIAL),
    Row(
        "projected_normal_isotropic",
        dist.ProjectedNormal,
        {"loc": LOC, "scale": [[0.7], [1.5]]},
        3,
        bad_params=(
            *BAD_LOC,
            ({"scale": [[0.0], [1.0]]}, "scale must be positive and finite, got 0.0"),
            ({"scale": [[INF], [1.0]]}, "scale must be positive and finite, got inf"),
            ({"scale": [[1.0, 2.0]] * 2}, r"scale has shape \(2, 2\)"),
            ({"scale": [[1.0]] * 5}, "do not broadcast"),
            ({"scale_tril": [[[1.0]]]}, "Only one covariance"),
        ),
    ),
    Row(
        "projected_normal_diagonal",
        dist.ProjectedNormal,
        {"loc": LOC, "scale": [[0.5, 1.0, 2.0], [1.0, 0.3, 0.6]]},
        3,
        bad_params=(
            *BAD_LOC,
            ({"scale": [[1.0, -1.0, 2.0]] * 2}, "scale must be positive and finite, got -1.0"),
            ({"scale": [[1.0, NAN, 2.0]] * 2}, "scale must be positive and finite, got nan"),
        ),
    ),
    Row(
        "projected_normal_full",
        dist.ProjectedNormal,
        {
            "loc": LOC,
            "scale_tril": [
                [[0.8, 0.0, 0.0], [0.3, 1.1, 0.0], [-0.4, 0.2, 0.6]],
                [[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [0.0, 0.5, 0.7]],
            ],
        },
        3,
        bad_params=(
            *BAD_LOC,
            ({"scale_tril": [[1.0, 0.0], [0.0, 1.0]]}, r"scale_tril has shape \(2, 2\)"),
            (
                {"scale_tril": [[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]},
                "scale_tril must be lower triangular",
            ),
            (
                {"scale_tril": [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]},
                "the diagonal of scale_tril must be positive and finite, got -1.0",
            ),
        ),
    ),
    Row(
        "projected_normal_low_rank",
        dist.ProjectedNormal,
        {
            "loc": LOC,
            "cov_factor": [[[0.6], [-0.9], [0.4]], [[1.2], [0.1], [0.0]]],
            "cov_diag": [[0.3, 0.5, 0.2], [0.4, 0.4, 1.0]],
        },
        3,
        bad_params=(
            *BAD_LOC,
            ({"cov_diag": [0.3, 0.0, 0.2]}, "cov_diag must be positive and finite, got 0.0"),
            ({"cov_diag": [0.3, 0.2]}, r"cov_diag has shape \(2,\)"),
            ({"cov_factor": [[0.3], [0.2]]}, r"cov_factor has shape \(2, 1\)"),
            ({"cov_factor": [[NAN], [0.2], [0.1]]}, "cov_factor must be finite, got nan"),
            ({"cov_diag": None}, "cov_factor and cov_diag come together"),
        ),
    ),
]


def pytest_generate_tests(metafunc) -> None:
    """Run every test that asks for ``row`` on each row of the table."""
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", TABLE, ids=[row.name for row in TABLE])
