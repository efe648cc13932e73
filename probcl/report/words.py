"""Numbers and scores in the words of a report."""

from collections.abc import Callable

import torch
from torch import Tensor

from probcl.evaluation import SCORES

__all__ = ["corruption", "counted", "limit", "meaning", "measured", "percent"]


def percent(share: float, rounded: Callable[[float], float] = round) -> str:
    """Return a share as a percentage of few digits, by default to the nearest.

    A bound is rounded to the side that it holds on, by ``math.ceil`` or ``math.floor``.
    """
    digits = 0 if share in (0, 1) else 1 if share > 0.005 else 2

    def number() -> float:
        # Without the rounding of the product: 0.07 is 7, not a little more.
        return rounded(round(100 * share * 10**digits, 6)) / 10**digits

    # What is not all, or nothing, is not called so.
    while 0 < share < 1 and number() in (0, 100) and digits < 9:
        digits += 1
    shown = f"{number():.{digits}f}".removesuffix(".0")
    return f"{shown} %"


def measured(question: str) -> tuple[str, float]:
    """Return what the answers to a question are measured by, and what chance gives."""
    return ("Spearman", 0.0) if question in ("corruption", "truth") else ("AUROC", 0.5)


def corruption(name: str) -> str:
    """Return a corruption by what grows with its severity."""
    grows = {"contrast": "loss of contrast", "pixelate": "pixelation"}
    return grows.get(name, name.replace("_", " "))


def limit(largest: float, values: Tensor) -> str:
    """Return a limit in as few digits as let through the same of the values ``(N,)``."""
    shown = (f"{largest:.{digits}g}" for digits in range(3, 18))
    return next(s for s in shown if torch.equal(values <= float(s), values <= largest))


def counted(count: int, noun: str) -> str:
    """Return a number and a noun, without the ``s`` of the noun if it is of one."""
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun}"


def meaning(score: str) -> str:
    """Return a score's meaning in brackets, where it is short."""
    said = SCORES[score].meaning if score in SCORES else ""
    return f" ({said})" if 0 < len(said) < 90 else ""
