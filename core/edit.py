"""Placing an antecedent in a question: a rewrite that by construction keeps the question's words and invents none.

A pronoun is replaced; a demonstrative with a noun ("那个模型") becomes "<term>的模型"; where something is left out, the term goes to the front, behind
mentions, quotations and interjections. One edit only:
what the question says otherwise stays untouched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from core.antecedents import Token, split_quote, tokenise

_CLASSIFIER: Final = "个款种块台套条张件家只份本门批把组项版部颗篇辆间"
#: Classifiers that begin hardly any noun ("张图" is no word of its own), so that they need no word border behind them.
_PLAIN_CLASSIFIER: Final = "个款张"
#: Those that stay where they are: "那根线" becomes "<term>那根线".
_MORE_CLASSIFIERS: Final = frozenset("家本根首句层节段片枚幅座步场")
_NUMBER: Final = "一两俩几二三"
#: Whose it is, or where it was said: "你那个", "你刚才说的那款", "后面这个".
_YOURS: Final = r"(?:(?:你们?|您)(?:刚才|刚刚|刚|上面|之前|前面)?(?:说|发|提|讲|报|贴|给|推荐|用|换|装|买)的|你们?|您|前面|后面|上面|刚才|刚刚)"
_ZH_PRONOUN: Final = re.compile(
    rf"(?<![其吉])它们?俩?|(?<!其)他家的|(?:前|后)者|前面那个|后面那个|{_YOURS}?(?:这玩意儿?|那玩意儿?|这东西|那东西)"
    r"|(?<![我你您他她们咱])那边|你说的(?:这|那)个|你说的"
)
#: Whoever is spoken of at the front of a question has been named before; further on it is often somebody of the question's own ("我同事说他…").
_ZH_FRONT: Final = re.compile(r"[他她](?![妈娘乡国人])(?:们俩?|俩)?(?:家(?![里人长]))?(?P<thing>那东西|那玩意儿?|那个|那边)?")
#: What only begins like a classifier; at the front of a clause also "那把它删了" and "这只支持 Linux".
_NO_CLASSIFIER: Final = r"台式|批处理|张量|个人版|个性化|款式|(?<![\u3400-\u9fff][这那])(?:把(?:[它他她这那]|\s?[A-Za-z])|只(?:支持|需|跑|用|认))"
#: Times that are said with a demonstrative: "这些天", "这个周末".
_TIMES: Final = "月|星期|礼拜|小时|钟头|时候|(?<=[个这])(?:周末|季度|学期)|(?<=些)(?:天(?!气|线)|年|日子)"
_ZH_DEMONSTRATIVE: Final = re.compile(rf"(?P<yours>{_YOURS})?(?:这|那)(?!{_NO_CLASSIFIER})(?:些|[{_NUMBER}]?[{_CLASSIFIER}])(?!{_TIMES})")
_ZH_BARE: Final = re.compile(r"(?<![我咱])(?<![我咱]们)这(?=要|能|会(?!儿)|是|有|支持|需要|算|得|应该|跟|和|对|比|可以)")
#: What ends a name or an example in quotation marks: "《豆解》那个项目", "“下雪”这种".
_CLOSING: Final = ("」", "』", "》", "”", '"')
#: Whose a thing is that the asker has: "我这台", "我们那个".
_MINE: Final = re.compile(r"(?:[我咱]们?|我的)$")
_ZH_NOUN: Final = re.compile(rf"(?<![我咱])(?<!我们)(?:{_YOURS}?这|{_YOURS}那)(?!{_TIMES})")
_EN_PRONOUN: Final = re.compile(r"(?<![\w'-])(?:that one|this one|the other one|its|(?-i:it|It)|they|them|their|those|these(?! days\b))(?![\w'-])", re.I)
_EN_DEMONSTRATIVE: Final = re.compile(
    r"(?<![\w'-])(?:that|this)(?= (?:[a-z0-9-]+))(?! (?:is|was|will|would|can|could|does|did|has|had|should|might|the|a|an|i|you|we|they|it|be|also|really|still|just"
    r"|morning|afternoon|evening|week|weekend|month|year|time|way)\b)",
    re.I,
)
_EN_BARE: Final = re.compile(
    r"(?<![\w'-])(?:that|this)(?= (?:is|was|will|would|can|could|does|did|has|should|might)\b|[?,.]|$)"
    r"|(?<=\bis )(?:that|this)(?= (?:an? (?!problem)|(?:the|still|just|also|really)\b))",
    re.I,
)
#: What a demonstrative "that" may follow; behind a noun or "heard" it joins clauses ("a version that works").
_EN_BEFORE_THAT: Final = re.compile(
    r"(?:^|[,:;.?!(]\s*|n't\s+|\b(?:is|was|are|were|do|does|did|can|could|will|would|should|has|have|had|not|with|for|to|on|in|of|from|about|like|than|at|by|via|into|without"
    r"|use|using|used|run|running|try|tried|install|get|buy|need|do|fix|turn|set|put|keep|change|enable|disable|remove|delete|load|open|and|or|but|so|if|when|why|how|what|where|whether|because|oh|ok|hm|hmm)\s+)$",
    re.I,
)
_IDLE_IT: Final = re.compile(r"(?<![\w'-])it(?='s| is)? (?:worth|possible|safe|ok|okay|normal|better|(?:just )?me\b|seems|matter)", re.I)
_MENTION: Final = re.compile(r"@[^\s，。,：:]+")
# What stands before the place of an omitted topic: mentions, stickers, "那", "所以", "请问一下", "谢谢大佬，", "ok," ...
_FRONT: Final = re.compile(
    r"^(?:\s*(?:@[^\s，。,：:]+|\[[^\]]{1,8}\]"
    r"|(?:那么(?![多少贵快慢大小高低难好])|那(?![些样时位里天次年俩儿会种个款么]|边(?![缘界框角])|部分)|所以|但是|但|不过(?!关)|可是|话说|另外|对了|然后|(?:我?还有|我?有|再?问)一?个问题|还有(?![没多少人什啥哪几别其])"
    r"|(?:我?想|再|顺便|弱弱)?(?:请问|请教|求教|问)(?:一?下|一句)|请问|大佬们?|求问"
    r"|(?:好[的吧]?|行吧?|是[的啊呀]|[对嗯哦噢喔额呃啊哎诶欸唉]+|哈哈+|收到|同[问求]|(?:谢谢|多谢|感谢)(?:大佬|老师|各位|大家)?|(?:明白|懂|了解)了?|原来如此|不好意思|各位(?:大佬|老师)?|(?:[你您]|大家|各位|大佬|老师)们?好)"
    r"(?=[，,\s！!。~]|$)"
    r"|(?:ok|oh|and|but|so|hmm|hm|wait|(?:hi|hello|hey)(?: (?:all|guys|everyone|there|folks))?)(?![A-Za-z0-9_-]))|[，,、：:。！!~]+))*\s*",
    re.I,
)
#: Phrases and words of place that the dictionary takes for nouns.
_NO_NOUN: Final = re.compile(r"[怎啥没就]|能(?![力量耗效源级耐手人])|太(?![阳极空])|本来|后来|(.)[不没]\1|自带$|离线$|[国室户海境][内外]$")
#: Nouns that name nothing: "这个东西" is no part of the thing.
_THINGS: Final = frozenset(["东西", "玩意", "玩意儿", "人", "事", "事情"])
#: What makes a verb of the word before it.
_BEHIND_VERB: Final = frozenset("吗么嘛了过着")
#: What a number counts: "15 天" is no "iPhone 15".
_MEASURE: Final = re.compile(
    r"\s*(?:[个天周年月日号点台张块元米度秒分帧路人次倍岁条套件寸核万千百亿]|小时|(?:[kmgt]i?b?|ms|fps|hz|mm|cm|w|days?|hours?|minutes?|seconds?|bits?)(?![a-z]))", re.I
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
    shown = _without_names(body)
    chinese = len(_HAN.findall(shown)) >= 2 or "它" in shown
    found = _chinese_slot(shown) if chinese else _english_slot(shown)
    slot = found or _front_slot(body)
    return Slot(slot.start + offset, slot.end + offset, slot.head, slot.possessive)


def _without_names(body: str) -> str:
    """``body`` with the names of its mentions blanked out: they may hold a pronoun, and say nothing about its language. No name is all that was said ("@张三它支持吗")."""
    return body if _MENTION.fullmatch(body) else _MENTION.sub(lambda match: "@" + "\0" * (len(match.group()) - 1), body)


def _chinese_slot(body: str) -> Slot | None:
    words, front = tokenise(body), _front_slot(body).start
    found = [
        (match.start(), match.end(), "") for pattern in (_ZH_PRONOUN, _ZH_BARE) if (match := next((one for one in pattern.finditer(body) if not _is_other_side(one, words)), None))
    ]
    if person := _ZH_FRONT.match(body, front):
        keeps_thing = person["thing"] == "那个" and _noun_at(person.start(), person.end(), words)
        found.append((person.start(), person.start("thing") if keeps_thing else person.end(), ""))
    for match in _ZH_DEMONSTRATIVE.finditer(body):
        named = _follows_noun(match.start(), words) or body[: match.start()].endswith(_CLOSING)
        says_itself = not (match["yours"] or "").startswith(("你", "您")) and match.start() > front and named
        mine = _MINE.search(body[: match.start()])
        says_itself = says_itself or (mine is not None and (mine.start() > front or _is_named(match.end(), words)))
        if _ends_classifier(body, match.end(), words) and not says_itself:
            things = _THINGS if match.group()[-1] in "个些" else _THINGS - {"人"}
            thing = next((word.end for word in words if word.start == match.end() and word.text in things), match.end())
            found.append((match.start(), thing, _noun_at(match.start(), thing, words)))
            break
    for match in _ZH_NOUN.finditer(body):
        if (noun := _noun_at(match.start(), match.end(), words)) and not _follows_noun(match.start(), words):
            found.append((match.start(), match.end(), noun))
            break
    return Slot(*min(found, key=lambda slot: (slot[0], -slot[1]))) if found else None


def _is_other_side(match: re.Match[str], words: Sequence[Token]) -> bool:
    """Whether a "那边" is that of somebody who is named ("客户那边"), or only the beginning of "那边缘端"."""
    return match.group() == "那边" and (_follows_noun(match.start(), words) or any(match.start() < word.start < match.end() < word.end for word in words))


def _ends_classifier(body: str, end: int, words: Sequence[Token]) -> bool:
    """Whether the character before ``end`` is a classifier and not the beginning of a noun ("这项目")."""
    inside = next((word for word in words if word.start < end < word.end), None)
    return inside is None or body[end - 1] in _PLAIN_CLASSIFIER or inside.end - end > 1


def _follows_noun(start: int, words: Sequence[Token]) -> bool:
    """Whether a noun or name stands right before: "身份证那个项目" says itself which one is meant."""
    return any(word.end == start and word.tag in "NL" and len(word.text) > 1 for word in words)


def _is_named(end: int, words: Sequence[Token]) -> bool:
    """Whether a name or number stands right behind: "我这台 2060"."""
    return next((word.tag in "LM" for word in words if word.start >= end), False)


def _noun_at(start: int, end: int, words: Sequence[Token]) -> str:
    """The noun right behind a demonstrative, "" when a verb or nothing follows."""
    asked_of = not any(word.end == start and (word.tag in "VW" or word.text in _BEHIND_VERB) for word in words)
    return next((word.text for word, after in pairwise([*words, None]) if word and word.start == end and word.tag == "N" and not _says(word, after, asked_of)), "")


def _says(word: Token, after: Token | None, asked_of: bool) -> bool:
    """Whether what the dictionary calls a noun says something of the thing: "这个是不是收费", and behind one that is ``asked_of`` also "这个收费吗"."""
    return _NO_NOUN.match(word.text) is not None or (asked_of and after is not None and after.start == word.end and after.text in _BEHIND_VERB)


def _english_slot(body: str) -> Slot | None:
    idle = _IDLE_IT.search(body)
    found = []
    for pattern in (_EN_PRONOUN, _EN_DEMONSTRATIVE, _EN_BARE):
        match = next((m for m in pattern.finditer(body) if not (idle and idle.start() == m.start()) and not _joins_clauses(body, m)), None)
        if match:
            found.append(match)
    if not found:
        return None
    match = min(found, key=lambda m: (m.start(), -m.end()))
    noun = match.re is _EN_DEMONSTRATIVE
    return Slot(match.start(), match.end(), head=body[match.end() :].split()[0] if noun else "", possessive=match.group().lower() in ("its", "their"))


def _joins_clauses(body: str, match: re.Match[str]) -> bool:
    """Whether a "that" is a conjunction or a relative pronoun."""
    return match.group().lower() == "that" and body[match.end() : match.end() + 1] == " " and not _EN_BEFORE_THAT.search(body[: match.start()])


def _front_slot(body: str) -> Slot:
    name = _NAME_PREFIX.match(body)
    start = name.end() if name else 0
    front = _FRONT.match(body[start:])
    place = start + (front.end() if front else 0)
    if body[:place].endswith("那") and body[place : place + 1] in _MORE_CLASSIFIERS:  # "那根线": no connective
        place = next((word.start for word in tokenise(body) if word.start < place < word.end), place)
    return Slot(place, place)


def place(question: str, term: str) -> str:
    """``question`` with ``term`` in its slot, spaced as the scripts on both sides want it; as it is where it has none, for nothing stands behind the mentions in front."""
    slot = find_slot(question)
    if not question[slot.start :].strip():
        return question
    before, after = question[: slot.start], question[slot.end :]
    chinese = bool(_HAN.search(_without_names(split_quote(question)[2])))
    labels = not chinese and slot.start == slot.end
    if not labels and (said := _said_twice(term, after)):
        after = after[said:]
    elif slot.head and term.casefold().endswith(slot.head.casefold()):
        after = after.lstrip()[len(slot.head) :]
    elif slot.head and chinese:
        term += "的"
    elif slot.possessive:
        term += "'s"
    elif labels:
        term += ":"
    return join(join(before, term), after)


def _said_twice(term: str, after: str) -> int:
    """How many characters at the front of ``after`` repeat the last words of ``term`` ("RTMPose 模型" before "模型支持"), or its first, and part of no longer Latin word."""
    text, words = after.lstrip(), tokenise(term)
    for said in (*(term[word.start :] for word in words[1:]), *(term[: word.end] for word in reversed(words[:-1]))):
        counts = said.isdigit() and _MEASURE.match(text, len(said))
        if len(said) > 1 and not counts and text[: len(said)].casefold() == said.casefold() and not (_latin(said[-1]) and re.match(r"[\w+#-]", text[len(said) :], re.ASCII)):
            return len(after) - len(text) + len(said)
    return 0


def join(left: str, right: str) -> str:
    """Two parts of a text, with a space between Latin words."""
    glue = left and right and _latin(left[-1]) and (_latin(right[0]))
    colon = left.endswith((":", "'s")) and right[:1].isalnum() and not _HAN.match(right)
    return left + (" " if glue or colon else "") + right


def _latin(char: str) -> bool:
    return char.isascii() and char.isalnum()
