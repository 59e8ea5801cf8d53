"""Placing an antecedent in a question: a rewrite that by construction keeps the question's words and invents none.

A pronoun is replaced; a demonstrative with a noun ("那个模型") becomes "<term>的模型"; where something is left out, the term goes to the front, behind
mentions, quotations and interjections. One edit only:
what the question says otherwise stays untouched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from core.antecedents import split_quote, tokenise

_CLASSIFIER: Final = "个款种块台套条张件边家只份本门批把组项版玩意东西"
_NUMBER: Final = "一两俩几二三"
_ZH_PRONOUN: Final = re.compile(r"它俩|它们|它|他家的|(?:前|后)者|前面那个|后面那个|这玩意儿?|那玩意儿?|这东西|那东西|你说的(?:这|那)个|你说的")
_ZH_DEMONSTRATIVE: Final = re.compile(rf"(?:你说的|你发的)?(?:这|那)(?:[{_NUMBER}])?(?:[{_CLASSIFIER}])")
_ZH_BARE: Final = re.compile(r"这(?=要|能|会|是|有|支持|需要|算|得|应该|跟|和|对|比|可以)")
_EN_PRONOUN: Final = re.compile(r"(?<![\w'-])(?:that one|this one|the other one|its|it|they|them|their|those|these)(?![\w'-])", re.I)
_EN_DEMONSTRATIVE: Final = re.compile(
    r"(?<![\w'-])(?:that|this)(?= (?:[a-z0-9-]+))(?! (?:is|was|will|would|can|could|does|did|has|had|should|might|the|a|an|i|you|we|they|it|be|also|really|still|just)\b)", re.I
)
_EN_BARE: Final = re.compile(r"(?<![\w'-])(?:that|this)(?= (?:is|was|will|would|can|could|does|did|has|should|might)\b|[?,.]|$)", re.I)
_IDLE_IT: Final = re.compile(r"(?<![\w'-])it(?='s| is)? (?:worth|possible|safe|ok|okay|normal|better|just me|seems)", re.I)
# What stands before the place of an omitted topic: mentions, stickers, "那", "所以", "ok," ...
_FRONT: Final = re.compile(
    r"^(?:\s*(?:@\S+|\[[^\]]{1,8}\]|(?:那么|那|所以|但是|但|不过|可是|话说|另外|对了|然后|还有|请问|大佬们?|求问|问下|问一下|顺便问下|顺便问一下|好的|ok|oh|and|but|so|hmm|hm|wait)(?![A-Za-z0-9_-])|[，,、：:。！!~]+))*\s*",
    re.I,
)
_HAN: Final = re.compile(r"[\u3400-\u9fff]")
_NAME_PREFIX: Final = re.compile(r"^[A-Za-z_][\w-]{1,20}: ")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a term goes: it takes the place of ``[start, end)``; ``head`` is a noun that follows and stays, joined by 的 in Chinese."""

    start: int
    end: int
    head: str = ""
    possessive: bool = False


def find_slot(question: str) -> Slot:
    """The place of the antecedent in ``question``: its first referring expression, else the front."""
    _, _, body = split_quote(question)
    offset = len(question) - len(body)
    chinese = len(_HAN.findall(body)) >= 2
    slot = _chinese_slot(body) if chinese else _english_slot(body)
    return Slot(slot.start + offset, slot.end + offset, slot.head, slot.possessive)


def _chinese_slot(body: str) -> Slot:
    found = [match for pattern in (_ZH_PRONOUN, _ZH_DEMONSTRATIVE, _ZH_BARE) if (match := pattern.search(body))]
    if not found:
        return _front_slot(body)
    match = min(found, key=lambda m: (m.start(), -m.end()))
    return Slot(match.start(), match.end(), _head_after(body, match.end()) if match.re is _ZH_DEMONSTRATIVE else "")


def _head_after(body: str, end: int) -> str:
    """The noun right behind a demonstrative, "" when a verb or nothing follows."""
    word = next((token for token in tokenise(body) if token.start >= end), None)
    return word.text if word is not None and word.start == end and word.tag == "N" else ""


def _english_slot(body: str) -> Slot:
    idle = _IDLE_IT.search(body)
    found = []
    for pattern in (_EN_PRONOUN, _EN_DEMONSTRATIVE, _EN_BARE):
        match = next((m for m in pattern.finditer(body) if not (idle and idle.start() == m.start())), None)
        if match:
            found.append(match)
    if not found:
        return _front_slot(body)
    match = min(found, key=lambda m: (m.start(), -m.end()))
    noun = match.re is _EN_DEMONSTRATIVE
    return Slot(match.start(), match.end(), head=body[match.end() :].split()[0] if noun else "", possessive=match.group().lower() in ("its", "their"))


def _front_slot(body: str) -> Slot:
    name = _NAME_PREFIX.match(body)
    start = name.end() if name else 0
    front = _FRONT.match(body[start:])
    place = start + (front.end() if front else 0)
    return Slot(place, place)


def place(question: str, term: str) -> str:
    """``question`` with ``term`` in its slot, spaced as the scripts on both sides want it."""
    slot = find_slot(question)
    before, after = question[: slot.start], question[slot.end :]
    chinese = bool(_HAN.search(question))
    if slot.head and term.casefold().endswith(slot.head.casefold()):
        after = after.lstrip()[len(slot.head) :]
    elif slot.head and chinese:
        term += "的"
    elif slot.possessive:
        term += "'s"
    elif not chinese and slot.start == slot.end:
        term += ":"
    return _join(_join(before, term), after)


def _join(left: str, right: str) -> str:
    glue = left and right and _latin(left[-1]) and (_latin(right[0]))
    colon = left.endswith((":", "'s")) and right[:1].isalnum() and not _HAN.match(right)
    return left + (" " if glue or colon else "") + right


def _latin(char: str) -> bool:
    return char.isascii() and char.isalnum()
