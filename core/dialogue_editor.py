"""A small encoder that edits the last question of a short dialogue: which phrase of the lines goes where in it, all edits compared in one pass.

The packaged sentence encoder (:mod:`core.encoder`) with the differences of its own fine-tuning reads the lines and the question (:mod:`core.dialogue_reading`). It takes
phrases from the lines and writes no word of its own (but 的 and 是 beside them), as RUN does (Liu et al. 2020, arXiv 2009.13166). ``editor.npz`` (no pickle) holds the
differences and the head; made by ``scripts.training.dialogue_editor``. Synchronous: some 30 ms a question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.arrays import read_arrays
from core.dialogue_reading import GLUE, DialogueReading, edited, read_dialogue
from core.encoder import DIFFERENCES, EncoderFile, Floats, TokenEncoder, gelu, packaged
from core.errors import InputError
from core.grounding import squeeze
from core.messages import Question

EDITOR_FORMAT: Final = 1
#: Layers of the head: states of a phrase and of a gap, how likely each is alone, its glue, and both in the space in which they meet.
HEAD: Final = ("phrase", "gap", "phrase_out", "gap_out", "glue", "phrase_meets", "gap_meets")
#: Width of that space.
MEETING: Final = 64
#: Edits whose probabilities are added up where they make the same text.
_LOOKED_AT: Final = 64
_REMEDY: Final = "Reinstall doujie, or train it: python -m scripts.training.dialogue_editor"


@dataclass(frozen=True, slots=True)
class Edit:
    """A rewrite, and the natural-log probability that it is the one that is meant."""

    text: str
    logprob: float


class DialogueEditor:
    """The editor of ``arrays``, over the weights of ``file``.

    :raises InputError: when they do not fit; ``source`` names where they come from.
    """

    def __init__(self, file: EncoderFile, arrays: Mapping[str, NDArray[Any]], source: str = "editor") -> None:
        try:
            form, self.version = int(arrays["format"]), str(arrays["version"])
            self._layers = _layers(arrays, file.shape.hidden)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(source, f"no editor of dialogues ({error})", _REMEDY) from None
        if form != EDITOR_FORMAT:
            raise InputError(source, "an editor of another form", _REMEDY)
        self._encoder = TokenEncoder(file, {name: values for name, values in arrays.items() if name[-2:] in DIFFERENCES and not name.startswith("head.")}, source)

    @classmethod
    def load(cls, path: Path) -> DialogueEditor:
        """Raises ImportError where the packaged encoder is not installed, InputError for an unusable file."""
        return cls(packaged(), read_arrays(path, "an editor of dialogues", _REMEDY), str(path))

    def edits(self, question: Question, most: int) -> list[Edit]:
        """The ``most`` likeliest rewrites that change something, the likeliest first; none where nothing can be put in, or the question is too long."""
        reading = read_dialogue(question, self._encoder.file)
        if reading is None:
            return []
        odds = self._log_odds(reading, self._encoder.hidden(list(reading.ids)))
        flat = odds.reshape(-1)
        most_likely = float(flat.max())
        total = most_likely + math.log(float(np.exp(flat - most_likely).sum(dtype=np.float64)))
        likeliest = np.argpartition(-flat, min(_LOOKED_AT, len(flat)) - 1)[:_LOOKED_AT].tolist()
        texts: dict[str, tuple[str, float]] = {}
        for index in likeliest:
            phrase, gap, glue = (int(part) for part in np.unravel_index(index, odds.shape))
            text = edited(question.text, reading.gaps[gap], reading.phrases[phrase].text, glue)
            known, before = texts.get(squeeze(text), (text, -math.inf))
            texts[squeeze(text)] = known, float(np.logaddexp(before, float(flat[index]) - total))
        texts.pop(squeeze(question.text), None)
        found = [Edit(text, logprob) for text, logprob in texts.values()]
        return sorted(found, key=lambda edit: -edit.logprob)[:most]

    def _log_odds(self, reading: DialogueReading, hidden: Floats) -> Floats:
        """(phrases, gaps, glues), up to a constant. ``hidden`` (tokens, h)."""
        phrase = gelu(self._layer("phrase", _phrase_states(reading, hidden)))
        gap = gelu(self._layer("gap", _gap_states(reading, hidden)))
        meets = self._layer("phrase_meets", phrase).reshape(len(phrase), len(GLUE), MEETING)
        together = np.einsum("pgd,qd->pqg", meets, self._layer("gap_meets", gap), optimize=True) / np.float32(math.sqrt(MEETING))
        alone = self._layer("phrase_out", phrase)[:, :, None] + self._layer("gap_out", gap)[None, :, :] + self._layer("glue", phrase)[:, None, :]
        odds: Floats = together + alone
        return odds

    def _layer(self, name: str, states: Floats) -> Floats:
        weights, bias = self._layers[name]
        product: Floats = states @ weights + bias
        return product


def _phrase_states(reading: DialogueReading, hidden: Floats) -> Floats:
    """(phrases, 3h): the states of the first and the last token of each phrase, and their mean."""
    sums = _running_sums(hidden)
    first, last = (np.array([getattr(phrase, end) for phrase in reading.phrases]) for end in ("first", "last"))
    mean = (sums[last + 1] - sums[first]) / (last + 1 - first)[:, None]
    return np.concatenate([hidden[first], hidden[last], mean], axis=1).astype(np.float32)


def _gap_states(reading: DialogueReading, hidden: Floats) -> Floats:
    """(gaps, 6h): the states of the tokens on both sides of each end of a gap, the mean of those inside (zero where there are none), and the state that has read everything."""
    sums = _running_sums(hidden)
    first, after = (np.array([getattr(gap, end) for gap in reading.gaps]) for end in ("first", "after"))
    inside = (sums[after] - sums[first]) / np.maximum(after - first, 1)[:, None]
    everything = np.broadcast_to(hidden[:1], (len(first), hidden.shape[1]))
    return np.concatenate([hidden[first - 1], hidden[first], hidden[after - 1], hidden[after], inside, everything], axis=1).astype(np.float32)


def _running_sums(hidden: Floats) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((1, hidden.shape[1])), hidden.cumsum(axis=0, dtype=np.float64)])


def _layers(arrays: Mapping[str, NDArray[Any]], hidden: int) -> dict[str, tuple[Floats, Floats]]:
    """Weights (in, out) and bias (out,) of each layer. Raises KeyError or ValueError."""
    layers = {name: (arrays[f"head.{name}.w"].astype(np.float32).T, arrays[f"head.{name}.b"].astype(np.float32)) for name in HEAD}
    width = layers["phrase"][1].size
    inputs = {"phrase": 3 * hidden, "gap": 6 * hidden}
    outputs = {"phrase": width, "gap": width, "phrase_out": 1, "gap_out": 1, "glue": len(GLUE), "phrase_meets": MEETING * len(GLUE), "gap_meets": MEETING}
    for name, (weights, bias) in layers.items():
        if weights.shape != (inputs.get(name, width), outputs[name]) or bias.shape != (outputs[name],):
            raise ValueError(f"its layer {name} is not for states of {hidden} numbers")
    return layers
