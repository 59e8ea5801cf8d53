"""Candidate antecedents: the names and noun phrases of a conversation that a question may refer to.

A term is a contiguous piece of one line: Latin names with their versions ("NebulaGraph 3.8", "--max-model-len"), Chinese noun phrases, and mixtures
of both ("小米 AX9000 路由器"). Terms never cross
punctuation, particles or an @mention. Chinese is segmented and tagged by rjieba (the jieba dictionary in Rust).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from core.grounding import normalise, squeeze

MAX_TOKENS = 6
MAX_CHARS = 40

_PIECE = re.compile(
    r"(?P<skip>https?://\S+|\[[\u3400-\u9fffA-Za-z]{1,6}\]|@[^\s，。,：:]+)"
    r"|(?P<latin>(?:--?)?[A-Za-z0-9][A-Za-z0-9_.+#/%*'-]*(?:@v?[0-9.]+)?)|(?P<han>[\u3400-\u9fff]+)|(?P<space>[ \t]+)|(?P<other>.)",
    re.DOTALL,
)
_QUOTED = re.compile(r"^「(?P<who>[^：:」]{1,30})[：:](?P<text>.*?)」\s*(?:-(?: ?-)*)?\s*", re.DOTALL)

_NOUN, _VERB, _LIGHT, _MODIFIER, _NUMBER, _OF, _STOP, _LATIN, _BREAK = "N", "V", "W", "A", "M", "U", "X", "L", "P"
_NOUN_TAGS = ("n", "j", "l", "i", "s", "vn", "an", "t", "g")
# fmt: off
_STOP_WORDS = frozenset([
    "我", "你", "您", "他", "她", "它", "我们", "你们", "他们", "大家", "自己", "人家", "这", "那", "这个", "那个", "哪个", "什么", "怎么",
    "为啥", "为什么", "谁", "哪", "啥", "咋", "多少", "几", "东西", "时候", "问题", "情况", "意思", "办法", "感觉", "事", "人", "话", "点",
    "下", "大佬", "老师", "哥", "兄弟", "今天", "昨天", "明天", "现在", "刚才", "之前", "以后", "上面", "下面", "前面", "后面", "里面", "一个",
    "一下", "一样", "有点", "可以", "没有", "不行", "谢谢", "感谢", "哈哈", "哈哈哈", "没事", "直接", "基本", "肯定", "确实", "反正", "结果",
])
# fmt: on
# Verbs that may stand inside a term ("3588 跑 rtmpose-m") but not at its edge.
# fmt: off
_LIGHT_VERBS = frozenset([
    "是", "有", "能", "换", "跑", "用", "会", "要", "说", "让", "给", "到", "上", "想", "看", "搞", "弄", "装", "试", "改", "做",
    "开", "走", "来", "去", "买", "卖", "加", "调", "出", "起", "拿", "写", "转", "挂", "打", "没", "没用", "不用", "不能", "不会",
    "不行", "需要", "应该", "可能", "觉得", "知道", "支持", "换成", "改成", "出来", "起来", "起不来",
])
# fmt: on
# fmt: off
_LATIN_STOP = frozenset([
    "ok", "yes", "no", "lol", "thx", "thanks", "hi", "hello", "hey", "yeah", "nope", "yep", "a", "an", "and",
    "are", "as", "at", "be", "been", "by", "but", "can", "could", "did", "do", "does", "doesn't", "don't",
    "for", "from", "get", "got", "had", "has", "have", "he", "how", "i", "i'm", "i've", "if", "in", "into",
    "is", "isn't", "it", "it's", "its", "just", "like", "me", "my", "need", "no", "not", "of", "off", "on",
    "one", "only", "or", "our", "out", "per", "set", "she", "should", "so", "some", "still", "such", "than",
    "that", "that's", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "too",
    "try", "up", "us", "use", "used", "using", "was", "wasn't", "we", "were", "what", "what's", "when",
    "where", "which", "who", "why", "will", "with", "without", "won't", "would", "yet", "you", "your",
    "you're", "also", "any", "all", "another", "both", "each", "same", "again", "after", "before", "because",
    "between", "during", "about", "really", "very", "much", "more", "most", "less", "least", "now", "today",
    "yesterday", "btw", "imo", "fyi", "tbh", "maybe", "probably", "think", "know", "see", "say", "said",
    "tell", "told", "want", "make", "made", "run", "runs", "running", "way", "thing", "things", "time",
    "work", "works", "worked", "go", "goes", "going", "went", "come", "came", "take", "took", "put", "give",
    "gave", "please", "sorry", "good", "nice", "great", "right", "sure", "fine", "well", "here", "anyone",
    "someone", "something", "everything", "nothing",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a line: ``start`` and ``end`` are character offsets, ``tag`` one of the classes above."""

    text: str
    start: int
    end: int
    tag: str


@dataclass(slots=True)
class Term:
    """A distinct candidate and where it stands. ``key`` is its squeezed form; ``mentions`` are (line, start offset), oldest first; ``text`` is the newest spelling."""

    key: str
    text: str
    tags: str
    mentions: list[tuple[int, int]] = field(default_factory=list)

    @property
    def lines(self) -> list[int]:
        return sorted({line for line, _ in self.mentions})


def split_quote(text: str) -> tuple[str, str, str]:
    """A WeChat quotation in front of a message: (who is quoted, quoted text, the message without it); both empty without a quotation."""
    match = _QUOTED.match(text)
    return (match["who"].strip(), match["text"].strip(), text[match.end() :]) if match else ("", "", text)


@lru_cache(maxsize=4096)
def tokenise(text: str) -> tuple[Token, ...]:
    """Tokens of one line, white space left out, breaks (punctuation, mentions, links) kept as tokens of tag P."""
    import rjieba  # lazy: 40 MB of dictionary that a bot without a resolver does not need

    out: list[Token] = []
    for match in _PIECE.finditer(text):
        start, kind, piece = match.start(), match.lastgroup, match.group()
        if kind == "latin":
            word = piece.rstrip(".-/'")
            out.append(Token(word, start, start + len(word), _latin_tag(word)))
            if len(word) < len(piece):
                out.append(Token(piece[len(word) :], start + len(word), match.end(), _BREAK))
        elif kind == "han":
            for word, tag in rjieba.tag(piece, True):
                out.append(Token(word, start, start + len(word), _han_tag(word, tag)))
                start += len(word)
        elif kind != "space":
            out.append(Token(piece, start, match.end(), _BREAK))
    return tuple(out)


def _latin_tag(word: str) -> str:
    if word.lower() in _LATIN_STOP:
        return _STOP
    return _LATIN if re.search(r"[A-Za-z]", word) else _NUMBER


def _han_tag(word: str, tag: str) -> str:
    if word == "的":
        return _OF
    if word in _STOP_WORDS:
        return _STOP
    if word in _LIGHT_VERBS:
        return _LIGHT
    if tag.startswith(_NOUN_TAGS):
        return _NOUN
    if tag.startswith("v"):
        return _VERB
    if tag.startswith(("a", "b", "z", "f")):
        return _MODIFIER
    return _NUMBER if tag.startswith("m") and len(word) > 1 else _STOP


def spans(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, tags) of every candidate term of one line: sequences of up to MAX_TOKENS words with a name or noun in them, not ending in a connective."""
    words = tokenise(text)
    for first in range(len(words)):
        tags = ""
        for word in words[first : first + MAX_TOKENS]:
            if word.tag in (_BREAK, _STOP):
                break
            tags += word.tag
            if word.end - words[first].start > MAX_CHARS:
                break
            if _is_term(tags, text[words[first].start : word.end]):
                yield words[first].start, word.end, tags


def _is_term(tags: str, text: str) -> bool:
    if tags[0] in "UW" or tags[-1] in "UAW" or tags.count(_OF) > 1 or (_LATIN in tags and _VERB in (tags[0], tags[-1])):
        return False
    if not any(tag in tags for tag in (_LATIN, _NOUN)):
        return tags in ("VV", "MV", "AV") and len(text) >= 3
    return len(text) > 1


def collect(lines: Sequence[str]) -> list[Term]:
    """Distinct terms of ``lines``, in order of their first mention."""
    found: dict[str, Term] = {}
    for index, line in enumerate(lines):
        for start, end, tags in spans(line):
            text = line[start:end]
            key = squeeze(text)
            term = found.setdefault(key, Term(key, text, tags))
            term.text, term.tags = text, tags
            if (index, start) not in term.mentions:
                term.mentions.append((index, start))
    return list(found.values())


def latin_words(text: str) -> list[str]:
    """Latin words that name something, normalised: neither function words nor bare numbers."""
    return [word.text.casefold() for word in tokenise(normalise(text)) if word.tag == _LATIN]


def content_words(text: str) -> list[str]:
    """Names, nouns, verbs and modifiers, normalised, in their order: neither function words nor light verbs nor bare numbers."""
    return [word.text.casefold() for word in tokenise(normalise(text)) if word.tag in (_LATIN, _NOUN, _VERB, _MODIFIER)]
