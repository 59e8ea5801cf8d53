"""A small language model that reads a conversation and points at what a question means.

It scores the same terms as :mod:`core.antecedent_pointer`, over the states of a language model with an adapter of its own. A language model reads from left to right: so the
question stands in front of the lines as well as behind them, and each name is read by one who knows what is asked. ``reader.gguf`` is the adapter, ``reader.npz`` (no pickle) the
head; made by ``scripts.training.reader``. Synchronous: about a second a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array, Scene
from core.antecedents import Term
from core.arrays import read_arrays
from core.encoder import Floats
from core.errors import BackendError, InputError
from core.pointer_reading import LINES, read
from core.span_head import SpanHead

READER_FORMAT = 1
#: Longest text that is read; more than a few hundred tokens are rare.
MOST_TOKENS = 512
#: What follows the text: the state of its last token has read everything.
END = " ="
#: SentencePiece writes a space as U+2581, and reads that as a space; half of a surrogate pair is no character.
_REPLACED: Final = {0x2581: "_", **dict.fromkeys(range(0xD800, 0xE000), "?")}
_REMEDY = "Reinstall doujie, or train it: python -m scripts.training.reader"


class States(Protocol):
    """A language model that tells the states of tokens, such as :class:`core.gates.llama_engine.LlamaEngine`. ``decoded_tokens``: how many it has read."""

    decoded_tokens: int

    def tokenize(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids; ``start`` puts the begin-of-sequence token in front."""

    def piece(self, token: int) -> bytes:
        """What ``token`` stands for; nothing for a special one."""

    def states(self, tokens: Sequence[int]) -> Floats:
        """Last hidden states (n, h), all finite. Raises BackendError."""

    def close(self) -> None:
        """Free it. Idempotent."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation as the language model reads it, the question in front. Places are characters of ``text``, at least one each: ``terms`` (index of the term, start, end),
    ``lines`` (index of the line, start, end), ``asked`` the question behind the lines."""

    text: str
    terms: tuple[tuple[int, int, int], ...]
    lines: tuple[tuple[int, int, int], ...]
    asked: tuple[int, int]


def asked_first(scene: Scene, terms: Sequence[Term], line_scores: Array, lines: int = LINES) -> Asked:
    """The ``lines`` likeliest lines of :func:`core.pointer_reading.read` between the question and the question."""
    reading = read(scene, terms, line_scores, _REPLACED, lines)
    start, end = reading.asked
    before = f"Q: {reading.text[start:]}\n"
    by = len(before)
    if end == start:  # nothing is asked: the asker's letter stands for it
        start -= len("Q: ")

    def moved(spans: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
        return tuple((index, first + by, last + by) for index, first, last in spans if last > first)

    return Asked(before + reading.text + END, moved(reading.terms), moved(reading.lines), (start + by, end + by))


def that_fits(scene: Scene, terms: Sequence[Term], line_scores: Array, tokenize: Callable[[str], Sequence[int]], lines: int = LINES) -> tuple[Asked, Sequence[int]]:
    """(what is read, its tokens): as many of the ``lines`` likeliest lines as MOST_TOKENS hold; of none of them the question alone may be longer."""
    while True:
        asked = asked_first(scene, terms, line_scores, lines)
        tokens = tokenize(asked.text)
        if len(tokens) <= MOST_TOKENS or lines == 0:
            return asked, tokens
        lines -= 1


class TokenPlaces:
    """Which tokens hold which characters of ``text``, from the bytes that each token stands for. Raises ValueError when these are not the text."""

    def __init__(self, text: str, pieces: Sequence[bytes]) -> None:
        self._bytes: NDArray[np.int64] = np.cumsum([0, *(len(character.encode()) for character in text)])
        self._ends: NDArray[np.int64] = np.cumsum([0, *map(len, pieces)])
        if b"".join(pieces) != text.encode():
            raise ValueError("its tokens do not spell the text")

    def span(self, start: int, end: int) -> tuple[int, int]:
        """(first token, last + 1) of the characters ``[start, end)``, which are at least one; characters may share a token."""
        first = int(np.searchsorted(self._ends, self._bytes[start], side="right")) - 1
        return first, int(np.searchsorted(self._ends, self._bytes[end], side="left"))


class AntecedentReader:
    """``model`` with the adapter that belongs to the head in the file ``path``; ``hidden``: how many numbers a state of it has.

    :raises InputError: when the file is not there or does not fit.
    """

    def __init__(self, model: States, path: Path, hidden: int, adapter: str = "") -> None:
        arrays = read_arrays(path, "the head of a reader", _REMEDY)
        try:
            form, self.version = int(arrays["format"]), str(arrays["version"])
            if form != READER_FORMAT:
                raise ValueError("it is of another form")
            self._head = SpanHead(arrays, hidden)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(str(path), f"no head of a reader ({error})", _REMEDY) from None
        self.adapter, self._model, self._closed = adapter, model, False

    def point(self, scene: Scene, terms: Sequence[Term], line_scores: Array) -> Array | None:
        """Log-odds (n,) of each term: see :meth:`core.span_head.SpanHead.log_odds`; None where it reads nothing of them. ``line_scores`` (m,): the line ranker's.

        :raises BackendError: when the model fails, or is closed.
        """
        if self._closed:
            raise BackendError("llama_cpp", "is closed")
        asked, tokens = that_fits(scene, terms, line_scores, lambda text: self._model.tokenize(text, start=True))
        if not asked.terms or len(tokens) > MOST_TOKENS:
            return None
        try:
            places = TokenPlaces(asked.text, [self._model.piece(token) for token in tokens])
        except ValueError as error:
            raise BackendError("llama_cpp", str(error)) from None
        hidden = normalised(self._model.states(tokens))
        spans = [(term, *places.span(start, end)) for term, start, end in asked.terms]
        return self._head.log_odds(hidden, hidden[-1], places.span(*asked.asked), spans, len(terms))

    @property
    def decoded_tokens(self) -> int:
        """Tokens that the model has read."""
        return self._model.decoded_tokens

    def close(self) -> None:
        """Free the model. Idempotent."""
        self._closed = True
        self._model.close()


def normalised(hidden: Floats) -> Floats:
    """States scaled to a mean square of 1 each: those of a language model differ much in length."""
    scaled: Floats = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled
