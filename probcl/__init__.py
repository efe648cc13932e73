"""probcl: probabilistic contrastive learning on the hypersphere, with Pyro and PyTorch."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probcl import (
        arviz,
        data,
        distributions,
        evaluation,
        hub,
        infer,
        nn,
        objectives,
        programs,
        report,
        special,
        sphere,
        training,
    )  # fmt: skip

__all__ = [
    "arviz", "data", "distributions", "evaluation", "hub", "infer", "nn", "objectives", "programs",
    "report", "special", "sphere", "training",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first used, so that ``import probcl`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'probcl' has no attribute {name!r}.")
    return import_module(f"probcl.{name}")


def __dir__() -> list[str]:
    """Name the rooms, whether or not they have been imported."""
    return sorted({*globals(), *__all__})
