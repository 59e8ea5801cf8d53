"""What the editor of short dialogues reads, and every edit that it may make: a phrase of the lines in the place of some words of the question, or between two of them.

Chinese is read by character, so that a phrase may begin and end anywhere. Members are letters (the asker is Q): names say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.edit import join
from core.encoder import SPACE, EncoderFile, Encoding
from core.messages import Question
from core.pointer_reading import TextWriter

#: What stands before and behind the phrase: nothing, or what joins it in Chinese.
GLUE: Final = (("", ""), ("", "的"), ("的", ""), ("", "是"))
#: Tokens of a phrase, and of the words that it replaces.
MOST_PHRASE, MOST_REPLACED = 14, 8
_MOST_LINE_CHARS, _MOST_QUESTION_CHARS = 90, 80
_HAN = re.compile(r"[\u3400-\u9fff]")
_NOBODY = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens ``first`` to ``last`` of a line, and the characters that they stand for."""

    first: int
    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Characters ``start`` to ``end`` of the question, the tokens from ``first`` up to ``after``; both empty between two words."""

    first: int
    after: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DialogueReading:
    """Token ids of the lines and the question, and what an edit is made of."""

    ids: tuple[int, ...]
    phrases: tuple[Phrase, ...]
    gaps: tuple[Gap, ...]


def read_dialogue(question: Question, file: EncoderFile) -> DialogueReading | None:
    """None where no edit is possible, or the question is longer than what is read."""
    letters = {question.sender: "Q"} | {line.sender: "A" for line in question.context if line.sender != question.sender}
    mention = re.compile("|".join(f"@{re.escape(name)}" for name in sorted(letters, key=len, reverse=True) if name)) if any(letters) else _NOBODY
    writer = TextWriter(letters, mention, file.replaced)
    placed = []
    for line in question.context:
        writer.text += f"{letters[line.sender]}: "
        placed.append((line.text, len(writer.text), writer.put(line.text, _MOST_LINE_CHARS)))
        writer.text += " "
    writer.text += "Q: "
    asked = len(writer.text), writer.put(question.text, _MOST_QUESTION_CHARS)
    if asked[1][-1] < 0:
        return None
    encoding = by_character(file.encode(writer.text), writer.text, file)
    phrases = [phrase for text, start, places in placed for phrase in _phrases(text, start, places, encoding, file)]
    gaps = list(_gaps(question.text, *asked, encoding))
    if not phrases or not gaps or len(encoding.ids) > file.shape.positions:
        return None
    return DialogueReading(encoding.ids, tuple(phrases), tuple(gaps))


def edited(question: str, gap: Gap, phrase: str, glue: int) -> str:
    """``question`` with ``phrase`` in the place of ``gap``, between the two parts of :data:`GLUE`."""
    before, behind = GLUE[glue]
    return join(join(question[: gap.start], f"{before}{phrase}{behind}"), question[gap.end :])


def by_character(encoding: Encoding, text: str, file: EncoderFile) -> Encoding:
    """``encoding`` with each piece of several characters that holds a Chinese one cut into its characters."""
    ids, offsets = [], []
    for piece, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if end - start > 1 and _HAN.search(text, start, end):
            ids += [file.vocabulary.cut(SPACE if character == " " else character)[0][0] for character in text[start:end]]
            offsets += [(at, at + 1) for at in range(start, end)]
        else:
            ids.append(piece)
            offsets.append((start, end))
    return Encoding(tuple(ids), tuple(offsets))


def _pieces(start: int, places: list[int], encoding: Encoding) -> list[tuple[int, int | None, int | None]]:
    """(token, the character of the message that it begins with, the one behind it) of a message whose text stands from ``start`` on; None where it ends inside a character."""
    begins: dict[int, int] = {}
    for index, at in enumerate(places):
        begins.setdefault(at, index)
    end = max(places)
    inside = [(token, a, b) for token, (a, b) in enumerate(encoding.offsets) if b > start and a < end and b > a]
    return [(token, begins.get(max(a, start)), begins.get(min(b, end))) for token, a, b in inside]


def _phrases(text: str, start: int, places: list[int], encoding: Encoding, file: EncoderFile) -> Iterable[Phrase]:
    unseen = {point: None for point, shown in file.replaced.items() if not shown}
    pieces = _pieces(start, places, encoding)
    for number, (first, begin, _) in enumerate(pieces):
        for last, _, end in pieces[number : number + MOST_PHRASE]:
            if begin is not None and end is not None and (phrase := " ".join(text[begin:end].translate(unseen).split())):
                yield Phrase(first, last, phrase)


def _gaps(text: str, start: int, places: list[int], encoding: Encoding) -> Iterable[Gap]:
    pieces = _pieces(start, places, encoding)
    for number, (first, begin, _) in enumerate(pieces):
        if begin is None:
            continue
        yield Gap(first, first, begin, begin)
        for last, _, end in pieces[number : number + MOST_REPLACED]:
            if end is not None:
                yield Gap(first, last + 1, begin, end)
    if pieces and (end := pieces[-1][2]) is not None:
        yield Gap(pieces[-1][0] + 1, pieces[-1][0] + 1, end, end)
