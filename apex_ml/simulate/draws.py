"""Draw levels and classes from probabilities, each with a random stream of its own."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Days = npt.NDArray[np.int64]


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one purpose. Streams are distinguished by name, so that a new column changes no other."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))))


def pick(weights: Floats, rows: Codes | None, uniforms: Floats) -> Codes:
    """Level codes by inverse distribution: weights (rows, levels), `rows` the row each draw uses (None: the first)."""
    cumulative = np.cumsum(weights, axis=1)
    codes = np.zeros(len(uniforms), np.int32)
    for level in range(weights.shape[1] - 1):  # the last bound is never compared: it may round to just under 1
        bound = cumulative[0, level] if rows is None else cumulative[:, level][rows]
        codes += uniforms >= bound
    return codes


def pick_each(probabilities: Floats, uniforms: Floats) -> Codes:
    """Class codes where every draw has its own row of probabilities."""
    codes = np.zeros(len(uniforms), np.int32)
    bound = np.zeros(len(uniforms))
    for level in range(probabilities.shape[1] - 1):
        bound += probabilities[:, level]
        codes += uniforms >= bound
    return codes
