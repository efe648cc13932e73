"""The parser of the commands that need no Lightning."""

from argparse import ArgumentParser
from typing import NoReturn

__all__ = ["Parser"]


class Parser(ArgumentParser):
    """Parser that answers bad input with one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the reason and exit with status 2."""
        self.exit(2, f"probcl: error: {message}: see {self.prog} --help.\n")
