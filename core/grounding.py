"""The acceptance rule: what a rewrite must satisfy before anybody sees it.

A rewrite is accepted only if it (1) differs from the question, (2) adds only words that stand in the conversation or the glossary, (3) keeps the
question's words, save for the referring expressions
that it replaces, and (4) is sure enough. The first three are decided here from the texts alone; the confidence of (4) comes from whoever made the
rewrite. Texts are compared after NFKC and case
folding: Latin text by word, Chinese by character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from core.messages import Question, RefusalReason

_TOKEN = re.compile(r"[a-z0-9](?:[a-z0-9_.+#/@:*-]*[a-z0-9_+#*])?|[\u3400-\u9fff]")
_HAN = re.compile(r"[\u3400-\u9fff]")

# What a rewrite may drop or add freely: it refers or connects but names nothing.
_FREE_HAN = frozenset("它他她这那哪此其该之的得地了着过里中上下在用把被给让对为和与跟及或是有就都也还又再吧吗呢啊呀么嘛哦个些种款只位件块台条家边儿样会能时候后前去来到从按做")
# fmt: off
_FREE_WORDS = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "do", "does", "did", "for", "from", "had", "has", "have",
    "he", "her", "him", "his", "i", "in", "is", "it", "its", "me", "my", "of", "on", "one", "ones", "or",
    "our", "s", "she", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "to", "too", "us", "was", "we", "were", "what", "when", "which", "who", "with",
    "you", "your", "about", "into", "like", "using", "same", "other",
])
# fmt: on
# A demonstrative noun phrase ("这个插件", "that card") is replaced as a whole, head included.
_REFERRING_NP = re.compile(
    r"前者|后者|(?:这|那|该|前面|后面|上面|刚才|之前|你们?说)[\u3400-\u9fff]{0,6}"
    r"|(?<![a-z0-9])(?:this|that|these|those|the)(?:\s+[a-z0-9-]+){0,2}"
)
_QUOTE = re.compile(r"^「.*?」\s*(?:(?:- ?)+)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grounding:
    """What a rewrite changed for the worse: words that stand nowhere in the conversation, and words of the question that it lost."""

    invented: tuple[str, ...]
    lost: tuple[str, ...]


def normalise(text: str) -> str:
    """NFKC and case folding; white space is kept, since it separates Latin words."""
    return unicodedata.normalize("NFKC", text).casefold()


def squeeze(text: str) -> str:
    """:func:`normalise` without any white space: the form in which Chinese texts are compared."""
    return re.sub(r"\s+", "", normalise(text))


def tokens(text: str) -> list[str]:
    """Latin words (with the signs that names bear: ``c++``, ``yolov8-pose``, ``2.13``) and single Chinese characters."""
    return _TOKEN.findall(normalise(text))


def sources(question: Question) -> list[str]:
    """The texts a rewrite may take words from: the question, the lines before it, the names of who wrote them, and the group's glossary."""
    return [question.text, *(line.text for line in question.context), *(line.sender for line in question.context), *question.glossary]


def check(question: str, rewrite: str, allowed: Iterable[str]) -> Grounding:
    """Compare ``rewrite`` with ``question``; ``allowed`` are the texts that words may come from."""
    before, after = tokens(question), tokens(rewrite)
    haystack = "\n".join(normalise(text) for text in allowed)
    kept_words = set(after)
    invented: list[str] = []
    lost: list[str] = []
    droppable = _droppable(question)
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        lost.extend(token for token in before[i1:i2] if token not in kept_words and token not in droppable and not is_free(token))
        invented.extend(_invented(after[j1:j2], haystack))
    return Grounding(tuple(dict.fromkeys(invented)), tuple(dict.fromkeys(lost)))


def refusal(question: Question, candidate: str | None, confidence: float, min_confidence: float) -> tuple[RefusalReason | None, Grounding]:
    """The reason why ``candidate`` is not accepted, or None when it is; with what was found on the way."""
    nothing = Grounding((), ())
    if candidate is None or not candidate.strip():
        return RefusalReason.NO_CANDIDATE, nothing
    if squeeze(candidate) == squeeze(question.text):
        return RefusalReason.UNCHANGED, nothing
    found = check(question.text, candidate, sources(question))
    if found.invented:
        return RefusalReason.INVENTED, found
    if found.lost:
        return RefusalReason.LOST_WORDS, found
    return (RefusalReason.UNSURE if confidence < min_confidence else None), found


def is_free(token: str) -> bool:
    """Function words that name nothing, so that a rewrite may add or drop them."""
    return token in _FREE_WORDS or token in _FREE_HAN


def _droppable(question: str) -> frozenset[str]:
    """Tokens of the referring expressions and of a leading quotation: a rewrite may leave them out."""
    text = normalise(question)
    spans = [match.group() for match in _REFERRING_NP.finditer(text)]
    quote = _QUOTE.match(text)
    if quote:
        spans.append(quote.group())
    return frozenset(token for span in spans for token in _TOKEN.findall(span))


def _invented(added: Sequence[str], haystack: str) -> list[str]:
    """The words of ``added`` that ``haystack`` lacks. Runs of Chinese characters are covered greedily by pieces that stand in it."""
    missing: list[str] = []
    run = ""
    for token in [*added, ""]:
        if _HAN.fullmatch(token):
            run += token
            continue
        missing.extend(_uncovered(run, haystack))
        run = ""
        if token and token not in _FREE_WORDS and not re.search(rf"(?<![a-z0-9]){re.escape(token)}(?![a-z0-9])", haystack):
            missing.append(token)
    return missing


def _uncovered(run: str, haystack: str) -> list[str]:
    missing: list[str] = []
    start = 0
    while start < len(run):
        end = len(run)
        while end > start + 1 and run[start:end] not in haystack:
            end -= 1
        piece = run[start:end]
        if end == start + 1 and piece not in _FREE_HAN and (len(run) > 1 or piece not in haystack):
            missing.append(piece)
        start = end
    return missing
