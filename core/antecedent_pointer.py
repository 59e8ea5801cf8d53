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
from core.encoder import DIFFERENCES, EncoderFile, TokenEncoder, packaged
from core.errors import InputError
from core.pointer_reading import encoded, token_spans
from core.span_head import SpanHead

POINTER_FORMAT = 1
_REMEDY = "Reinstall doujie, or train it: python -m scripts.training.pointer"


class AntecedentPointer:
    """The pointer of ``arrays``, over the weights of ``file``.

    :raises InputError: when they do not fit; ``source`` names where they come from.
    """

    def __init__(self, file: EncoderFile, arrays: Mapping[str, NDArray[Any]], source: str = "pointer") -> None:
        try:
            form, self.version = int(arrays["format"]), str(arrays["version"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(source, f"no pointer at antecedents ({error})", _REMEDY) from None
        if form != POINTER_FORMAT:
            raise InputError(source, "a pointer of another form", _REMEDY)
        try:
            self._head = SpanHead(arrays, file.shape.hidden)
        except (KeyError, ValueError) as error:
            raise InputError(source, f"no pointer at antecedents ({error})", _REMEDY) from None
        self._encoder = TokenEncoder(file, {name: values for name, values in arrays.items() if name[-2:] in DIFFERENCES and not name.startswith("head.")}, source)

    @classmethod
    def load(cls, path: Path) -> AntecedentPointer:
        """Raises ImportError where the packaged encoder is not installed, InputError for an unusable file."""
        return cls(packaged(), read_arrays(path, "a pointer", _REMEDY), str(path))

    def point(self, scene: Scene, terms: Sequence[Term], line_scores: Array) -> Array:
        """Log-odds (n,) of each term against "nothing of this is meant": see :meth:`core.span_head.SpanHead.log_odds`. ``line_scores`` (m,): the line ranker's."""
        reading, encoding = encoded(scene, terms, line_scores, self._encoder.file)
        spans = token_spans(reading, encoding)
        if not spans:
            return np.zeros(len(terms))
        hidden = self._encoder.hidden(list(encoding.ids))
        return self._head.log_odds(hidden, hidden[0], encoding.span(*reading.asked) or (0, 1), spans, len(terms))
