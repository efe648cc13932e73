"""Polynomials as lists of coefficients, lowest first: exact for integers and fractions."""

from itertools import zip_longest

__all__ = ["add", "derivative", "multiply"]


def add(p: list, q: list) -> list:
    """Return the sum of two polynomials."""
    return [a + b for a, b in zip_longest(p, q, fillvalue=0)]


def multiply(p: list, q: list) -> list:
    """Return the product of two polynomials."""
    product = [0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] += a * b
    return product


def derivative(p: list) -> list:
    """Return the derivative of a polynomial."""
    return [power * c for power, c in enumerate(p)][1:]
