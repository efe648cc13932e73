"""A progress bar that follows the work wherever it is done, without being passed around."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from rich.errors import LiveError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress_bar", "step", "track"]

T = TypeVar("T")

_SHOWN: ContextVar[Progress | None] = ContextVar("progress", default=None)


class _Bar(Progress):
    """A bar that is drawn ten times a second, by its own thread, and at no other time.

    Rich's would be drawn for every new step as well, which takes longer than most steps do.
    """

    def refresh(self) -> None:
        """Wait for the thread."""


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[None]:
    """Show a line for each ``step`` that is at work inside, if ``shown``.

    Another live display of rich's, as Lightning's, is left alone: then there is no bar.
    """
    if not shown:
        yield
        return
    bar = _Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        transient=True,
    )  # fmt: skip
    with suppress(LiveError):
        bar.start()
    token = _SHOWN.set(bar if bar.live.is_started else None)
    try:
        yield
    finally:
        _SHOWN.reset(token)
        if bar.live.is_started:
            bar.stop()


@contextmanager
def step(name: str, total: int) -> Iterator[Callable[[], None]]:
    """Name the work that is done inside, and yield what to call after each of ``total`` parts."""
    bar = _SHOWN.get()
    if bar is None:
        yield lambda: None
        return
    task = bar.add_task(name, total=total)
    try:
        yield lambda: bar.advance(task)
    finally:
        bar.remove_task(task)


def track(name: str, parts: Collection[T]) -> Iterator[T]:
    """Go through the parts of some work as one step."""
    with step(name, len(parts)) as advance:
        for part in parts:
            yield part
            advance()
