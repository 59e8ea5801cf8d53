"""Compares spans of a text with a question that stands in it: the head of what points at antecedents, over the hidden states of any model.

A span is the states of its first and last token and their mean; the question is one state that has read everything, and the mean of its own tokens. Shapes: a state is (h,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.encoder import Floats, gelu

#: Layers: states of a span, those of the question, and what they say together.
HEAD = ("span", "asked", "out", "none")


class SpanHead:
    """The layers ``head.NAME.w`` (out, in) and ``head.NAME.b`` of ``arrays``. Raises KeyError or ValueError where they are not there, or not for states of ``hidden`` numbers."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], hidden: int) -> None:
        self._layers = {name: (arrays[f"head.{name}.w"].astype(np.float32).T, arrays[f"head.{name}.b"].astype(np.float32)) for name in HEAD}
        width = self._layers["span"][1].size
        wanted = {"span": (3 * hidden, width), "asked": (2 * hidden, width), "out": (width, 1), "none": (width, 1)}
        for name, (weights, bias) in self._layers.items():
            if weights.shape != wanted[name] or bias.shape != wanted[name][1:]:
                raise ValueError(f"its head is not for states of {hidden} numbers")

    def log_odds(self, hidden: Floats, summary: Floats, asked: tuple[int, int], spans: Sequence[tuple[int, int, int]], terms: int) -> Array:
        """Log-odds (terms,) of each term against "nothing of this is meant"; one that has no span gets one less than the least.

        ``hidden`` (tokens, h); ``summary`` (h,): what has read everything; ``asked``: first and last + 1 token of the question; ``spans``: (index of the term, first, last + 1).
        There is at least one, and none of them is empty.
        """
        question = self._layer("asked", np.concatenate([summary, hidden[slice(*asked)].mean(axis=0)]))
        states = self._layer("span", np.stack([np.concatenate([hidden[first], hidden[last - 1], hidden[first:last].mean(axis=0)]) for _, first, last in spans]))
        odds = self._layer("out", gelu(states + question + states * question))[:, 0] - self._layer("none", gelu(question))[0]
        scores = np.full(terms, -np.inf)
        for (term, _, _), value in zip(spans, odds.astype(np.float64), strict=True):
            scores[term] = np.logaddexp(scores[term], value)
        seen = np.isfinite(scores)
        return np.where(seen, scores, scores[seen].min() - 1.0)

    def _layer(self, name: str, states: Floats) -> Floats:
        weights, bias = self._layers[name]
        product: Floats = states @ weights + bias
        return product
