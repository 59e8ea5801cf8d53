"""A small encoder that points at what a question means: it scores every candidate term of a conversation in one pass.

The packaged sentence encoder (:mod:`core.encoder`) with the differences of its own fine-tuning reads the likeliest lines and the question as one text
(:mod:`core.pointer_reading`); each candidate is the states of its tokens, compared with those of the question. ``pointer.npz`` (no pickle) holds the differences and the
head; made by ``scripts.training.pointer``. Synchronous: some 100 ms a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array, Scene
from core.antecedents import Term
from core.arrays import read_arrays
from core.encoder import DIFFERENCES, EncoderFile, Floats, TokenEncoder, gelu, packaged
from core.errors import InputError
from core.pointer_reading import encoded, token_spans

POINTER_FORMAT = 1
#: Layers of the head: states of a term, those of the question, and what they say together.
HEAD = ("span", "asked", "out", "none")
_REMEDY = "Reinstall doujie, or train it: python -m scripts.training.pointer"


class AntecedentPointer:
    """The pointer of ``arrays``, over the weights of ``file``.

    :raises InputError: when they do not fit; ``source`` names where they come from.
    """

    def __init__(self, file: EncoderFile, arrays: Mapping[str, NDArray[Any]], source: str = "pointer") -> None:
        try:
            form, self.version = int(arrays["format"]), str(arrays["version"])
            head = {name: (arrays[f"head.{name}.w"].astype(np.float32).T, arrays[f"head.{name}.b"].astype(np.float32)) for name in HEAD}
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(source, f"no pointer at antecedents ({error})", _REMEDY) from None
        if form != POINTER_FORMAT or head["span"][0].shape[0] != 3 * file.shape.hidden:
            raise InputError(source, "a pointer of another form", _REMEDY)
        self._head = head
        self._encoder = TokenEncoder(file, {name: values for name, values in arrays.items() if name[-2:] in DIFFERENCES and not name.startswith("head.")}, source)

    @classmethod
    def load(cls, path: Path) -> AntecedentPointer:
        """Raises ImportError where the packaged encoder is not installed, InputError for an unusable file."""
        return cls(packaged(), read_arrays(path, "a pointer", _REMEDY), str(path))

    def point(self, scene: Scene, terms: Sequence[Term], line_scores: Array) -> Array:
        """Log-odds (n,) of each term against "nothing of this is meant"; what no shown line holds gets one less than the least. ``line_scores`` (m,): the line ranker's."""
        reading, encoding = encoded(scene, terms, line_scores, self._encoder.file)
        spans = token_spans(reading, encoding)
        if not spans:
            return np.zeros(len(terms))
        hidden = self._encoder.hidden(list(encoding.ids))
        start, end = encoding.span(*reading.asked) or (0, 1)
        question = self._layer("asked", np.concatenate([hidden[0], hidden[start:end].mean(axis=0)]))
        states = self._layer("span", np.stack([np.concatenate([hidden[first], hidden[last - 1], hidden[first:last].mean(axis=0)]) for _, first, last in spans]))
        odds = self._layer("out", gelu(states + question + states * question))[:, 0] - self._layer("none", gelu(question))[0]
        scores = np.full(len(terms), -np.inf)
        for (term, _, _), value in zip(spans, odds.astype(np.float64), strict=True):
            scores[term] = np.logaddexp(scores[term], value)
        seen = np.isfinite(scores)
        return np.where(seen, scores, scores[seen].min() - 1.0)

    def _layer(self, name: str, states: Floats) -> Floats:
        weights, bias = self._head[name]
        product: Floats = states @ weights + bias
        return product
