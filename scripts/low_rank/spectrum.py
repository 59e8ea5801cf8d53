"""Singular values of a change of weights, and what they say: effective rank, stable rank, energy kept by rank r, rank above noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Values = NDArray[np.float64]

#: Rows in one step of the QR decomposition of a tall matrix, such as an embedding of 262,144 rows: bounds its memory.
_ROWS = 32_768
#: A matrix so many times as tall as wide is first reduced to a square one.
_TALL = 4


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The change of one matrix. ``values``: its singular values, largest first, (least dimension,); for a LoRA adapter the first r, as the others are 0.

    ``layer``: number of the block, None outside the blocks; ``module``: the last name of the matrix, such as q_proj; ``rows`` and ``columns``: its shape; ``bound``: the rank
    that the method allows, None for full fine-tuning; ``base_norm``: Frobenius norm of the base's matrix, None where the base is not at hand.
    """

    name: str
    layer: int | None
    module: str
    rows: int
    columns: int
    values: Values
    bound: int | None = None
    base_norm: float | None = None

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of the change."""
        return float((self.values**2).sum())

    @property
    def relative_change(self) -> float | None:
        """Frobenius norm of the change over that of the base."""
        return math.sqrt(self.energy) / self.base_norm if self.base_norm else None

    @property
    def effective_rank(self) -> float:
        """exp of the Shannon entropy of the singular values as shares of their sum (Roy and Vetterli, EUSIPCO 2007); 0 without a change."""
        total = float(self.values.sum())
        if total <= 0:
            return 0.0
        shares = self.values[self.values > 0] / total
        return float(np.exp(-(shares * np.log(shares)).sum()))

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius norm over squared spectral norm (Rudelson and Vershynin 2007); 0 without a change."""
        return self.energy / float(self.values[0]) ** 2 if self.energy > 0 else 0.0

    @property
    def rank_above_noise(self) -> int | None:
        """Singular values above what noise of unknown level gives: Gavish and Donoho's optimal hard threshold (IEEE Trans. IT 2014). None where the method bounds the rank,
        for then there is no noise floor to see.
        """
        if self.bound is not None or self.energy == 0:
            return None
        ratio = min(self.rows, self.columns) / max(self.rows, self.columns)
        threshold = (0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43) * float(np.median(self.values))
        return int((self.values > threshold).sum())

    def kept(self, rank: int) -> float:
        """Share of the energy that the best approximation of this rank keeps (Eckart and Young); 1 without a change."""
        return float((self.values[:rank] ** 2).sum()) / self.energy if self.energy > 0 else 1.0

    def rank_for(self, share: float) -> int:
        """The least rank that keeps this share of the energy; 0 without a change."""
        if self.energy == 0:
            return 0
        kept = np.cumsum(self.values**2) / self.energy
        return int(np.searchsorted(kept, share - 1e-12) + 1)


def singular_values(matrix: torch.Tensor) -> Values:
    """All singular values of a matrix, largest first."""
    import torch

    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if tall.shape[0] >= _TALL * tall.shape[1]:
        tall = _triangle(tall)
    values: Values = torch.linalg.svdvals(tall.double()).numpy()
    return values


def lora_singular_values(a: torch.Tensor, b: torch.Tensor, scale: float) -> Values:
    """Singular values of scale * B A, largest first, from its factors alone: those of R_B R_A^T of two QR decompositions, an r x r matrix.

    :param a: (r, inputs). :param b: (outputs, r).
    """
    import torch

    core = _triangle(b) @ _triangle(a.T).T
    values: Values = abs(scale) * torch.linalg.svdvals(core.double()).numpy()
    return values


def _triangle(tall: torch.Tensor) -> torch.Tensor:
    """R of the QR decomposition of a matrix, in double precision, its rows read in parts."""
    import torch

    triangle = torch.linalg.qr(tall[:_ROWS].double(), mode="r").R
    for start in range(_ROWS, tall.shape[0], _ROWS):
        triangle = torch.linalg.qr(torch.cat([triangle, tall[start : start + _ROWS].double()]), mode="r").R
    return triangle
