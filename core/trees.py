"""Gradient-boosted trees in LightGBM's text format, evaluated with numpy alone: a bot needs no LightGBM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

Array = NDArray[np.float64]

_NAN_MISSING, _ZERO_MISSING, _DEFAULT_LEFT, _CATEGORICAL = 8, 4, 2, 1


@dataclass(frozen=True, slots=True)
class _Tree:
    feature: NDArray[np.int64]
    threshold: Array
    decision: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaf: Array

    def __call__(self, rows: Array) -> Array:
        if not len(self.feature):
            return np.full(len(rows), self.leaf[0])
        node = np.zeros(len(rows), dtype=np.int64)
        active = np.arange(len(rows))
        while len(active):
            at = node[active]
            value = rows[active, self.feature[at]]
            missing = np.isnan(value)
            value = np.where(missing & ((self.decision[at] & _NAN_MISSING) == 0), 0.0, value)
            default = ((self.decision[at] & _NAN_MISSING) != 0) & missing
            goes_left = np.where(default, (self.decision[at] & _DEFAULT_LEFT) != 0, value <= self.threshold[at])
            node[active] = np.where(goes_left, self.left[at], self.right[at])
            active = active[node[active] >= 0]
        return self.leaf[~node]


class Trees:
    """A LightGBM model in text form without categorical features. Calling it gives raw scores, or probabilities where it was trained as a binary classifier."""

    def __init__(self, text: str, source: str = "model") -> None:
        head, *blocks = text.split("\nTree=")
        self.binary = "objective=binary" in head
        try:
            self.names = next(line for line in head.splitlines() if line.startswith("feature_names=")).partition("=")[2].split()
            self._trees = [_parse_tree(block) for block in blocks]
        except (StopIteration, KeyError, ValueError) as error:
            raise InputError(source, f"not a LightGBM text model ({error})", "Train it again: python -m scripts.training.ranker") from None

    def __call__(self, rows: Array) -> Array:
        total = np.zeros(len(rows))
        for tree in self._trees:
            total += tree(rows)
        return 1.0 / (1.0 + np.exp(-total)) if self.binary else total


def _parse_tree(block: str) -> _Tree:
    fields = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines() if "=" in line)
    decision = np.array(fields.get("decision_type", "").split(), dtype=np.int64)
    if (decision & _CATEGORICAL).any() or (decision & _ZERO_MISSING).any():
        raise ValueError("categorical features and missing zeros are not supported")
    ints = {key: np.array(fields.get(key, "").split(), dtype=np.int64) for key in ("split_feature", "left_child", "right_child")}
    return _Tree(
        ints["split_feature"],
        np.array(fields.get("threshold", "").split(), dtype=float),
        decision,
        ints["left_child"],
        ints["right_child"],
        np.array(fields["leaf_value"].split(), dtype=float),
    )
