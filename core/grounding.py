"""The acceptance rule: what a rewrite must satisfy before anybody sees it.

A rewrite is accepted only if it (1) adds something that names, (2) adds only words that stand in the conversation or the glossary, (3) keeps the question's words
in their order, save for the referring expressions that it replaces, and says no where the question says no, and (4) is sure enough. The first three are decided
here from the texts alone; the confidence of (4) comes from whoever made the rewrite. Texts are compared after NFKC and case folding: Chinese by character, other
scripts by word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from core.messages import Question, RefusalReason

_LATIN = r"a-z0-9\u00e0-\u00f6\u00f8-\u024f"
_TOKEN = re.compile(rf"[{_LATIN}](?:[{_LATIN}_.+#/@:*-]*[{_LATIN}_+#*])?|[\u3400-\u9fff]|[^\W\d_{_LATIN}\u3400-\u9fff]+")
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
# Free to add, but not to lose: without it the question is another one.
_KEPT = frozenset(["上", "中", "下", "里", "前", "后", "只", "哪", "when", "which", "who", "or", "to", "from"])
# What asks by characters that are free: "能不能商用" is no "不能商用", and "A 还是 B" no "A 和 B".
_CHOICE = re.compile(r"([能会是有对得让给用在])[不没]\1|还是")
# May refer, and be left out, but not become another one: "装之前" is no "装之后".
_PLACE = re.compile(r"[之以][前后]|[前后上下里外]面")
# A demonstrative noun phrase ("这个插件", "that card") is replaced as a whole, head included.
_REFERRING_NP = re.compile(r"(?<![a-z0-9])(?:this|that|these|those|the)(?:\s+[a-z0-9-]+){0,2}")
_REFERRING_HAN = re.compile(
    r"前者|后者|[他她它](?:们俩?|俩)|另外?[一两]?个|(?:(?:你们?|您)?(?:前面|后面|上面|刚才|刚刚|刚|之前)?(?:说|发|提|讲|报|贴|给|推荐|用|换|装|买)的|你们?|您|前面|上面)?"
    r"(?:这|那|该)[一两俩仨几二三]?(?:[个些款种块台套条张件家份本门批把组项版部颗篇辆间]|只(?!支持|需|跑|用|认|能|有(?!没)|要|会))?(?:东西|情况|办法|问题|事情?|人)?|前面|后面|上面|刚[才刚]|之前|你们?说"
)
_NO_HAN = re.compile(r"[不没无别未非莫勿]")
# Words and forms in which these characters do not negate: "识别", "能不能", "支持不？".
_NO_NEGATION = re.compile(
    r"(?:特|识|区|级|类|分|差|性|鉴|个)别|别(?:的|人|家|处)|非常|无(?:线|论|人机)|不(?:过|错|同|仅|断|但|管|锈钢)|未来|差不多|对不起|不好意思|([\u3400-\u9fff])[不没]\1|有没有"
    r"|[不没](?=[啊呀呢吗]?(?:[\s，。,.？?！!~)）]|$))"
)
_NO_WORDS = frozenset(["not", "no", "never", "without", "cannot", "nor", "none"])
_NO_LATIN = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(_NO_WORDS))})(?![\w-])|n['’]t\b")
_QUOTE = re.compile(r"^「.*?」\s*(?:(?:- ?)+)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grounding:
    """What a rewrite changed for the worse: words that stand nowhere in the conversation, and words of the question that it lost, moved or said all over again. A negation
    that is added counts as invented, one that is dropped as lost."""

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
    invented: list[str] = []
    quoted = Counter[str]()
    for tag, _, _, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            invented.extend(_invented(after[j1:j2], haystack))
            invented.extend(_denying(after, j1, j2))
            quoted.update(_quoted_negations(after[j1:j2], haystack))
    asked, written = _QUOTE.sub("", question), _QUOTE.sub("", rewrite)
    denied, denies = _negations(asked), _negations(written)
    places, placed = _counted(_PLACE, asked), _counted(_PLACE, written)
    turned = places - placed if placed - places else Counter[str]()
    invented.extend(word for word in denies - denied - quoted if word.isascii())  # Chinese ones: see _uncovered
    wanted = [token for token in _staying(question) if token in _KEPT or not is_free(token)]
    kept = set(after)
    lost = [token for token in wanted if token not in kept] or _moved(wanted, after) or _repeated(wanted, after)
    return Grounding(tuple(dict.fromkeys(invented)), tuple(dict.fromkeys([*lost, *(denied - denies), *(_counted(_CHOICE, asked) - _counted(_CHOICE, written)), *turned])))


def takes_from(question: str, rewrite: str, lost: str, left: str) -> bool:
    """Whether ``rewrite`` adds words to ``question`` that stand in the text ``lost`` and are not to be had from ``left``."""
    before, after = tokens(question), tokens(rewrite)
    less, more = normalise(left), normalise(f"{left}\n{lost}")
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return any(set(_invented(after[j1:j2], less)) - set(_invented(after[j1:j2], more)) for tag, _, _, j1, j2 in changes if tag != "equal")


def refusal(question: Question, candidate: str | None, confidence: float, min_confidence: float) -> tuple[RefusalReason | None, Grounding]:
    """The reason why ``candidate`` is not accepted, or None when it is; with what was found on the way."""
    nothing = Grounding((), ())
    if candidate is None or not candidate.strip():
        return RefusalReason.NO_CANDIDATE, nothing
    if not any(not is_free(token) for token in Counter(tokens(candidate)) - Counter(tokens(question.text))):
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


def _staying(question: str) -> list[str]:
    """Tokens that a rewrite may not leave out: all but those of the referring expressions and of a leading quotation, where they stand."""
    from core.antecedents import tokenise  # it reads its lines with this module

    text = normalise(question)
    spans = [match.span() for match in _REFERRING_NP.finditer(text)]
    words = tokenise(text)
    for match in _REFERRING_HAN.finditer(text):
        end, named = match.end(), False
        for word, after in pairwise([*words, None]):
            if word is not None and word.start <= end < word.end and (word.tag in "NAMU" or word.start < end):
                if named and word.text == "的" and after is not None and after.tag == "N":
                    break  # "那个项目的负责人" asks for the person: only the project is referred to
                end, named = word.end, named or word.tag == "N"
        spans.append((match.start(), end))
    quote = _QUOTE.match(text)
    if quote:
        spans.append(quote.span())
    return [token.group() for token in _TOKEN.finditer(text) if not any(start < token.end() and token.start() < end for start, end in spans)]


def _moved(wanted: Sequence[str], after: Sequence[str]) -> list[str]:
    """The first of ``wanted`` that does not stand in ``after`` behind those before it; else nothing."""
    rest = iter(after)
    return next(([token] for token in wanted if token not in rest), [])


def _repeated(wanted: Sequence[str], after: Sequence[str]) -> list[str]:
    """The first of ``wanted`` where all of them, three at least, stand in ``after`` twice over: a question that was written down again beside its rewrite."""
    rest = iter(after)
    return [wanted[0]] if len(wanted) > 2 and all(token in rest for token in [*wanted, *wanted]) else []


def _counted(pattern: re.Pattern[str], text: str) -> Counter[str]:
    return Counter(match.group() for match in pattern.finditer(text))


def _negations(text: str) -> Counter[str]:
    """How often each negation stands in ``text``; "isn't" and "cannot" count as "not"."""
    plain = _NO_NEGATION.sub("~", normalise(text))
    latin = _NO_LATIN.findall(plain)
    return Counter([*_NO_HAN.findall(plain), *("not" if word == "cannot" or word not in _NO_WORDS else word for word in latin)])


def _quoted_negations(added: Sequence[str], haystack: str) -> Iterator[str]:
    """Latin negations among ``added`` that stand in the conversation beside the word beside them: parts of a name or of what somebody said ("lora without regret")."""
    for left, right in pairwise(added):
        for word in {left, right} & _NO_WORDS:
            if re.search(rf"(?<![{_LATIN}]){re.escape(left)}\s+{re.escape(right)}(?![{_LATIN}])", haystack):
                yield word


def _denying(after: Sequence[str], start: int, end: int) -> list[str]:
    """The negation at the end of what was added, ``after[start:end]``, where it denies what the question says next: "它支持吗" made "鲲鹏不支持吗" by a line that says so."""
    follows = end < len(after) and _HAN.fullmatch(after[end]) is not None
    return [after[end - 1]] if follows and end - start > 1 and _NO_HAN.fullmatch(after[end - 1]) and _negations("".join(after[start : end + 1])) else []


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
        if token and token not in _FREE_WORDS and not _stands_in(token, haystack):
            missing.append(token)
    return missing


def _stands_in(token: str, haystack: str) -> bool:
    """Whether a word stands in the text as one, not as a part of a longer word or number ("3.1" in "3.1.4", "c" in "c++")."""
    return re.search(rf"(?<![{_LATIN}])(?<!\d\.){re.escape(token)}(?![{_LATIN}+#]|\.\d)", haystack) is not None


def _uncovered(run: str, haystack: str) -> list[str]:
    missing: list[str] = []
    start = 0
    while start < len(run):
        end = len(run)
        while end > start + 1 and run[start:end] not in haystack:
            end -= 1
        piece = run[start:end]
        if end == start + 1 and piece not in _FREE_HAN and (len(run) > 1 or piece not in haystack or _NO_HAN.fullmatch(piece)):
            missing.append(piece)
        start = end
    return missing
