"""Schedules of the KL's weight: functions from the step to a number."""

from dataclasses import dataclass

from probcl.checks import check_amount, check_count

__all__ = ["LinearAnnealing"]


@dataclass(frozen=True)
class LinearAnnealing:
    """Raise a weight along a straight line, then keep it; again and again if cyclic.

    A schedule is a function of the step alone: a resumed run continues it exactly.

    Args:
        steps: Steps from ``start`` to ``end``, at least 1.
        start: Weight at step 0, at least 0.
        end: Weight from ``steps`` on, at least 0.
        period: Steps after which the weight starts anew, more than ``steps``; None for never.

    Raises:
        ValueError: If ``steps`` is not positive, ``period`` does not exceed it, or a weight is
            negative or not finite.

    References:
        Fu et al. (2019), Cyclical Annealing Schedule. https://arxiv.org/abs/1903.10145

    Example:
        >>> weight = LinearAnnealing(steps=10)
        >>> weight(0), weight(5), weight(100)
        (0.0, 0.5, 1.0)
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    period: int | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_amount("start", self.start)
        check_amount("end", self.end)
        if self.period is not None and self.period <= self.steps:
            raise ValueError(
                f"period must be more than steps = {self.steps} or None, got {self.period}."
            )

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        if self.period is not None:
            step %= self.period
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)
