"""Which utterances ask something: explainable rules in Chinese and English.

Rules are tried in order; the first that fires decides, and its name is kept with the question. ``keep`` rules make a question, ``drop`` rules do not. What no rule settles is no question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import regex

from core.antecedents import split_quote

_I = regex.IGNORECASE


@dataclass(frozen=True, slots=True)
class Rule:
    """``script``: the letters without which the pattern cannot match, "han", "latin" or "" for none."""

    name: str
    keeps: bool
    pattern: regex.Pattern[str]
    script: str


@dataclass(frozen=True, slots=True)
class Examined:
    """What the filter decided, and the rule that decided it."""

    is_question: bool
    rule: str


def _rule(name: str, keeps: bool, *alternatives: str) -> Rule:
    script = {"zh": "han", "en": "latin"}.get(name[:2], "")
    return Rule(name, keeps, regex.compile("|".join(f"(?:{alternative})" for alternative in alternatives), _I), script)


_LETTERS = {"han": re.compile(r"[\u2e80-\U0003ffff]"), "latin": re.compile(r"[A-Za-z\u0130\u017f\u212a]")}  # the latter three fold to ASCII letters

_PLACEHOLDER = r"\[(?:图片|表情|文件|语音|视频|捂脸|旺柴|强|链接|动画表情|image|sticker|file|video|audio|[\p{Han}A-Za-z]{1,6})\]"

_CLAUSE_END = rf"(?=$|[~～。.!！,，;；：:…\s（(]|{_PLACEHOLDER}|@\S)"

#: In order. Examples stand in tests/core/test_question_filter.py, one and more for each rule.
RULES: tuple[Rule, ...] = (
    _rule("only_placeholder", False, rf"^(?:\s|{_PLACEHOLDER}|\p{{So}}|\p{{Sk}}|[!！。.,，~～…]|@\S++)*+$"),
    _rule("bare_link", False, r"^\s*https?://\S+\s*$"),
    _rule("command", False, r"^\s*/(?:dj|豆解)\b"),
    _rule(
        "zh_statement_with_question_word",
        False,
        r"(?:不知道|不晓得|不清楚|无论|不管|随便)(?:是|该|到底)?(?:什么|怎么|哪|谁|啥|咋)[^?？吗呢么]{0,20}$",
        r"^(?:没什么|没啥|不怎么|怎么都行|怎么样都|什么都|啥都|谁都|哪都|哪里都)[^?？吗呢]*$",
        r"^(?:什么鬼|啥玩意|什么玩意|怎么可能|什么情况啊?)[!！。~]*$",
    ),
    _rule("question_mark", True, r"[?？]\s*(?:" + _PLACEHOLDER + r"|[\"'”’)）\]】~～!！。.\s]|@\S++|\p{So})*+$", r"[?？](?!\S{0,120}[=&])"),
    _rule("zh_final_particle", True, rf"(?:吗|嘛|么|呢|不咯|没有?呢){_CLAUSE_END}", r"(?:吗|么)[aA啊呀(（?]", r"(?<!怎|什|那|这|多|要)[吗么](?:现在|这|它|\p{Han}{1,3}$|还是)"),
    _rule("zh_a_not_a", True, r"(\p{Han})(?:不|没)\1", r"能不能|可不可以|是不是|有没有|要不要|行不行|对不对|好不好|会不会|该不该|是否|能否|可否|有无|支不支持"),
    _rule(
        "zh_choice",
        True,
        r"(?<=[^,，。?？]{2}[,，]?)还是(?!不|没|很|挺|比较|有点|得|要不|会|一样|那么|一条条|老|这样|有|在|没有|先|用了|建议|挺|太|自己|继续|直接|别|算了|需要|可以|能|蛮|老老实实|那个|这个|回|报|会|跑|慢|卡|差|\d+)[^,，。!！]{1,}",
        r"是[^,，。?？]{1,30}[,，]?还是",
    ),
    _rule(
        "zh_wh_word",
        True,
        r"怎么(?!说呢|可能|了得)|怎样|咋(?!了吧|舌)|如何|为什么|为啥|为何|什么(?!的$|都|时候都)|啥(?!都|也)|哪(?!怕|吒)|谁(?!都|也|让)|(?<!好|十|这|那|没|过|前|后)几(?:\p{Han}|\s?[a-zA-Z])|多少|多重|多厚|多宽|多深|何时|何处|哪里|哪|多大|多久|多长|多远|多快|多高|多贵",
    ),
    _rule(
        "zh_ends_in_negation",
        True,
        rf"(?<!还|也|都|并|就|从|又|才|倒|怎|可|绝|要|差|好|了)(?:不|没|没有|否)(?:呀|啊|哈|哦|呐)?{_CLAUSE_END}",
        rf"(?<!来|到|得|算)了(?:没|不){_CLAUSE_END}",
    ),
    _rule(
        "zh_request",
        True,
        r"(?:请问|请教|求教|求助|求问|想问|问一?下|咨询|蹲一?个|求一?个|求推荐|有推荐|帮看|帮忙看|谁知道|谁有|谁懂|有人(?:知道|用过|遇到|试过|做过|了解|会)|有大佬|有没大佬|有懂|求解|求支招|啥意思|指点|指教|求带)",
        r"(?:帮|给|替)(?:我|我们|忙|俺)?(?:推荐|找|查|叫|看看|介绍|安排|预订)|(?:告诉|告知)(?:一下)?(?:我|下|一下)|(?:我|还|再)(?:想|要|需要)(?:要)?(?:找|去找|知道|了解)|给点(?:意见|建议)|推荐(?:一|个|下|几)",
    ),
    _rule("zh_guess", True, rf"(?:应该|是|可以|直接|会|得|能|也|不|没)[\p{{Han}}A-Za-z0-9 .]{{0,20}}(?:吧|把){_CLAUSE_END}", rf"(?:对吧|是吧|行吧|呗){_CLAUSE_END}"),
    _rule(
        "en_inverted",
        True,
        r"(?:^|[.,!;:]\s+|^\S+[:,]\s+|\b(?:and|so|but|then|hi|hey|hello|hm+|ok|also|well)\s*,?\s+)(?:is|are|am|was|were|do|does|did|can|could|would|will|should|shall|may|might|has|have|had|isn't|aren't|doesn't|don't|didn't|can't|couldn't|won't|wouldn't|shouldn't)\s+(?:it|i|you|we|they|he|she|this|that|these|those|there|the|a|an|any|some|anyone|anybody|someone|somebody|everyone|my|your|our|\w+s?)\b",
    ),
    _rule(
        "en_wh_word",
        True,
        r"(?:^|[.,!;:]\s+|^\S+[:,]\s+|\b(?:and|so|but|then|hi|hey|hello|or|know|wondering|tell me|figure out|idea|sure|ask)\s*,?\s+)(?:what(?:'s|s)?|where(?:'s|s)?|when|why|who(?:'s|se|m)?|which|how(?:'s|s)?(?: (?:do|to|can|come|about|many|much|long|often|big|far))?)\b(?! ever)",
    ),
    _rule(
        "en_request",
        True,
        r"\b(?:any(?:one|body) (?:know|have|got|tried|used|here|else|familiar)|does any(?:one|body)|any (?:idea|suggestion|recommendation|clue|hint|tip)s?\b|wondering (?:if|whether|how|what)|i wonder|is there (?:a|any)|need help|help (?:me )?with|looking for (?:a|an|some|any)|want(?:ed)? to know|tell me|recommend me|can you|could you|would you|do you)\b",
    ),
    _rule("en_tag", True, r"\b(?:right|correct|yes|no|huh|eh|ok)\s*[?？]\s*$", r"\b(?:or not|isn't it|aren't they|doesn't it|don't you|or what)\s*[.!]*$"),
)


class QuestionFilter:
    """``examine`` an utterance's text. ``min_chars`` counts letters and digits; longer than ``max_chars`` is a paste, not a question."""

    def __init__(self, min_chars: int = 2, max_chars: int = 1000, rules: tuple[Rule, ...] = RULES) -> None:
        self._min, self._max, self._rules = min_chars, max_chars, rules

    def examine(self, text: str) -> Examined:
        text = text.strip()
        if len(text) > self._max:
            return Examined(False, "too_long")
        text = split_quote(text)[2] or text  # whoever answers a question that is quoted asks nothing
        if sum(map(str.isalnum, text)) < self._min:
            return Examined(False, "too_short")
        missing = {script for script, letter in _LETTERS.items() if not letter.search(text)}
        for rule in self._rules:
            if rule.script not in missing and rule.pattern.search(text):
                return Examined(rule.keeps, rule.name)
        return Examined(False, "nothing_asked")
