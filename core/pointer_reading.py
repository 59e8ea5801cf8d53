"""What pointer and reader of antecedents read: the likeliest lines and the question as one text, with the place of every candidate term.

The lines stand in the order of time; members are letters (the asker is Q): names say nothing about products.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from core.antecedent_features import Array, Scene
from core.antecedents import Term, split_quote
from core.encoder import EncoderFile, Encoding
from core.grounding import squeeze

#: Ten hold nearly every antecedent; the others tell whose thread a question belongs to.
LINES = 14
_MOST_LINE_CHARS, _MOST_QUOTE_CHARS, _MOST_QUESTION_CHARS = 90, 60, 140
_LETTERS = [letter for letter in ascii_uppercase if letter != "Q"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model reads. ``terms``: (index of the term, start, end) of each mention in ``text``; ``lines``: (index of the line, start, end); ``asked``: where the question
    stands, with its quotation."""

    text: str
    terms: tuple[tuple[int, int, int], ...]
    lines: tuple[tuple[int, int, int], ...]
    asked: tuple[int, int]


class TextWriter:
    """Puts a text together, the names of mentioned members as letters, and remembers where each character of a piece went."""

    def __init__(self, letters: Mapping[str, str], mention: re.Pattern[str], replaced: Mapping[int, str]) -> None:
        self.text = ""
        self._letters, self._mention, self._replaced = letters, mention, replaced

    def put(self, piece: str, most: int) -> list[int]:
        """Append at most ``most`` characters of ``piece``. Returns the place of each of its characters and of its end; -1 for those cut off."""
        start, places, at = len(self.text), [-1] * (len(piece) + 1), 0
        while at < len(piece) and len(self.text) - start < most:
            found = self._mention.match(piece, at) if piece[at] == "@" else None
            end = found.end() if found else at + 1
            places[at:end] = [len(self.text)] * (end - at)
            shown = f"@{self._letters[found.group()[1:]]}" if found else self._replaced.get(ord(piece[at]), piece[at])
            for character in shown:
                if not character.isspace():
                    self.text += character
                elif not self.text.endswith(" "):
                    self.text += " "
            at = end
        places[at] = len(self.text)
        return places


def _likeliest(line_scores: Array, lines: int) -> list[int]:
    """Indices of the ``lines`` likeliest lines, in the order of time."""
    return sorted(np.argsort(-line_scores, kind="stable")[:lines].tolist())


def _member_letters(scene: Scene) -> tuple[dict[str, str], re.Pattern[str]]:
    """(the letter of each member, the asker's is Q; what finds an @mention of one of them)."""
    letters = {scene.sender: "Q"}
    for line in scene.lines:
        letters.setdefault(line.sender, _LETTERS[(len(letters) - 1) % len(_LETTERS)])
    return letters, re.compile("|".join(f"@{re.escape(name)}" for name in sorted(letters, key=len, reverse=True)))


def read(scene: Scene, terms: Sequence[Term], line_scores: Array, replaced: Mapping[int, str], lines: int = LINES) -> Reading:
    """The ``lines`` likeliest lines and the question as one text. ``line_scores`` (n,): the line ranker's probabilities; ``replaced``: characters as the vocabulary wants them."""
    letters, mention = _member_letters(scene)
    writer, found_lines = TextWriter(letters, mention, replaced), []
    shown: dict[int, tuple[str, list[int]]] = {}
    for index in _likeliest(line_scores, lines):
        body = split_quote(scene.lines[index].text)[2] or scene.lines[index].text
        writer.text += f"{letters[scene.lines[index].sender]}: "
        start = len(writer.text)
        shown[index] = body, writer.put(body, _MOST_LINE_CHARS)
        found_lines.append((index, start, len(writer.text)))
        writer.text += " "
    writer.text += "Q: "
    asked = len(writer.text)
    quoted: list[tuple[str, list[int]]] = []
    if scene.quote:
        writer.text += "「"
        quoted = [(scene.quote, writer.put(scene.quote, _MOST_QUOTE_CHARS))]
        writer.text += "」 "
    writer.put(scene.question, _MOST_QUESTION_CHARS)
    mentions = []
    for number, term in enumerate(terms):
        for at, start in term.mentions:
            # The quotation's own terms are said to stand in the last line.
            for body, places in [*([shown[at]] if at in shown else []), *(quoted if at == len(scene.lines) - 1 else [])]:
                end = start + len(term.text)
                if end < len(places) and squeeze(body[start:end]) == term.key and 0 <= places[start] < places[end]:
                    mentions.append((number, places[start], places[end]))
                    break
    return Reading(writer.text, tuple(mentions), tuple(found_lines), (asked, len(writer.text)))


def encoded(scene: Scene, terms: Sequence[Term], line_scores: Array, file: EncoderFile, lines: int = LINES) -> tuple[Reading, Encoding]:
    """What the encoder reads and its tokens: as many of the ``lines`` likeliest lines as there are positions for."""
    while True:
        reading = read(scene, terms, line_scores, file.replaced, lines)
        encoding = file.encode(reading.text)
        if len(encoding.ids) <= file.shape.positions or lines == 0:
            return reading, encoding
        lines -= 1


def token_spans(reading: Reading, encoding: Encoding) -> list[tuple[int, int, int]]:
    """(index of the term, first token, last token + 1) of each mention."""
    return [(term, *span) for term, start, end in reading.terms if (span := encoding.span(start, end)) is not None]
