"""A small language model as judge of candidate antecedents: what it reads, and its margins.

The likeliest earlier lines and the question are one prompt; each candidate is a short branch behind it, whose next token, yes or no, says whether the question means this
candidate. All branches share the cached prompt. Members are letters (the asker is Q): names say nothing about products, and cost tokens.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

import numpy as np

from core.antecedent_features import Array, Scene
from core.antecedents import Term

JUDGE_VERSION = "antecedent-judge-1"
YES, NO = "yes", "no"
#: Lines that the judge sees, and candidates that it judges at most.
LINES, CANDIDATES = 8, 12
_MOST_LINE_CHARS, _MOST_QUESTION_CHARS, _MOST_QUOTE_CHARS, _MOST_TERM_CHARS = 72, 120, 30, 40
_LETTERS = [letter for letter in ascii_uppercase if letter != "Q"]


def judge_prompt(scene: Scene, line_scores: Array, lines: int = LINES) -> str:
    """The ``lines`` likeliest lines, in the order of time, and the question. ``line_scores`` (n,): the line ranker's probabilities."""
    kept = likeliest(line_scores, lines)
    letters, mention = member_letters(scene)

    def shown(text: str, most: int) -> str:
        return " ".join(mention.sub(lambda match: f"@{letters[match.group()[1:]]}", text).split())[:most]

    context = "".join(f"{letters[scene.lines[i].sender]}: {shown(scene.lines[i].text, _MOST_LINE_CHARS)}\n" for i in kept)
    quote = f"「{shown(scene.quote, _MOST_QUOTE_CHARS)}」" if scene.quote else ""
    return f"{context}Q: {quote}{shown(scene.question, _MOST_QUESTION_CHARS)}\n"


def likeliest(line_scores: Array, lines: int) -> list[int]:
    """Indices of the ``lines`` likeliest lines, in the order of time."""
    return sorted(np.argsort(-line_scores, kind="stable")[:lines].tolist())


def member_letters(scene: Scene) -> tuple[dict[str, str], re.Pattern[str]]:
    """(the letter of each member, the asker's is Q; what finds an @mention of one of them)."""
    letters = {scene.sender: "Q"}
    for line in scene.lines:
        letters.setdefault(line.sender, _LETTERS[(len(letters) - 1) % len(_LETTERS)])
    return letters, re.compile("|".join(f"@{re.escape(name)}" for name in sorted(letters, key=len, reverse=True)))


def branch(term: Term) -> str:
    """What follows the prompt for one candidate."""
    return f"={' '.join(term.text.split())[:_MOST_TERM_CHARS]}?"


def shortlist(scores: Array, most: int = CANDIDATES) -> list[int]:
    """Indices of the candidates that are judged, best first."""
    return [int(index) for index in np.argsort(-scores, kind="stable")[:most]]
