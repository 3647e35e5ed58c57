"""Designed questions: rows of zeros and ones that say more than as many independent ones.

A fold-over Hadamard design of 2m rows shows every region in half of them; any two regions are shown
together in a quarter, and since every row comes with its complement no pair of regions can pass for
a third (Plackett and Burman 1946; Box and Wilson 1951). Columns are drawn at random and flipped at
random, so every single row is still a row of fair coins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray, ...]  # type: ignore[type-arg]


def hadamard(least: int) -> NDArray[np.int8]:
    """A Hadamard matrix (m, m) of ±1, its first column ones, of the smallest order m ≥ `least`.

    Of those that Sylvester's doubling and Paley's two constructions over prime fields give: all
    multiples of 4 up to 100 but 52, 92 and 100.
    """
    order = least
    while (found := _of_order(order)) is None:
        order += 1
    matrix: NDArray[np.int8] = found * found[:, :1]
    return matrix


def fold_over(columns: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows (2m, columns) of zeros and ones, each followed by its complement; m ≥ columns + 1.

    m is the order of the Hadamard matrix. Its columns, their signs and the row order are drawn, the
    constant column is left out.
    """
    matrix = hadamard(columns + 1)
    order = len(matrix)
    chosen = 1 + rng.permutation(order - 1)[:columns]
    signs = rng.integers(0, 2, columns, np.int8) * 2 - 1
    half = (matrix[rng.permutation(order)][:, chosen] * signs > 0).astype(np.uint8)
    return with_complements(half)


def with_complements(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows (2n, …) of zeros and ones: each of (n, …) followed by its complement."""
    return np.stack([rows, 1 - rows], axis=1).reshape(-1, *rows.shape[1:])


def regroup(blocks: Iterable[Rows], sizes: Iterable[int]) -> Iterator[Rows]:
    """The same rows in parts of other sizes: arrays that run side by side, cut and joined."""
    supply = iter(blocks)
    held: Rows | None = None
    for size in sizes:
        while held is None or len(held[0]) < size:
            more = next(supply)
            held = (
                more
                if held is None
                else tuple(np.concatenate(pair) for pair in zip(held, more, strict=True))
            )
        yield tuple(array[:size] for array in held)
        held = tuple(array[size:] for array in held) if len(held[0]) > size else None


def _of_order(order: int) -> NDArray[np.int8] | None:
    """A Hadamard matrix of exactly this order, if the constructions here give one."""
    if order <= 2:
        return np.array([[1, 1], [1, -1]], np.int8)[:order, :order]
    if order % 4:
        return None
    if _is_prime(order - 1):  # Paley's first construction: order − 1 is 3 modulo 4
        skew = _bordered(order - 1)
        skew[1:, 0] = -1
        return skew + np.eye(order, dtype=np.int8)
    if _is_prime(order // 2 - 1) and order // 2 % 4 == 2:  # his second: 1 modulo 4
        conference = _bordered(order // 2 - 1)
        identity = np.eye(order // 2, dtype=np.int8)
        plus, minus = conference + identity, conference - identity
        return np.block([[plus, minus], [minus, -plus]]).astype(np.int8)
    half = _of_order(order // 2)
    return None if half is None else np.block([[half, half], [half, -half]]).astype(np.int8)


def _bordered(prime: int) -> NDArray[np.int8]:
    """The quadratic residues of a prime as a matrix χ(i − j), with a border of ones."""
    character = np.full(prime, -1, np.int8)
    character[np.arange(1, prime) ** 2 % prime] = 1
    character[0] = 0
    matrix = np.ones((prime + 1, prime + 1), np.int8)
    matrix[0, 0] = 0
    index = np.arange(prime)
    matrix[1:, 1:] = character[(index[:, None] - index) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
