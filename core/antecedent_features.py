"""Surface features of earlier lines and of candidate terms, for the antecedent rankers.

All features are cheap: positions, times, senders, mentions, shared words. Names of features are
part of the shipped models' form: a model names
the columns it was trained on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.antecedents import Term, collect, latin_words, split_quote, tokenise
from core.grounding import normalise, squeeze
from core.messages import ContextLine

Array = NDArray[np.float64]

_QUESTION = re.compile(r"[?？]|吗|么|呢|咋|啥|怎么|怎样|如何|哪|谁|几|多少|是不是|能不能|有没有|可不可以|\b(?:how|what|why|which|where|when|who|does|can|is there|any)\b", re.I)
_ACK = re.compile(r"^(?:[\[\]\w]{0,6}|谢谢.{0,6}|感谢.{0,6}|好的?.{0,4}|收到.{0,3}|ok.{0,3}|哈+.{0,3}|懂了.{0,3})$", re.I)
_PRONOUN = re.compile(r"它|他|她|这|那|前者|后者|\b(?:it|its|that|this|those|these|they|them|one)\b", re.I)
_REFERRING_HEAD = re.compile(
    r"(?:这|那|哪)(?:一|两|几|三)?(?:个|款|种|块|台|套|条|张|件|边|些|家|只|份|本|门|批|把|组|项)?([\u3400-\u9fff]{0,3})|\b(?:the|that|this|those|these)\s+([a-z0-9-]+)", re.I
)
#: What joins alternatives, as it stands after the first and before the next of them.
_JOINED = r"(?:和|跟|与|还是|或者|或|对比|、|/|(?<![a-z])(?:vs\.?|or|and|versus)(?![a-z]))"
_BEFORE_ANOTHER, _AFTER_ANOTHER = re.compile(rf"\s*{_JOINED}\s*\S", re.I), re.compile(rf"\S\s*{_JOINED}\s*$", re.I)
_FORMER = re.compile(r"前者|前一(?:个|种|款|台|家)|前面(?:这|那|的)|第一(?:个|种|款|台|家)|头一(?:个|种|款)|\b(?:the former|the first)\b", re.I)
_LATTER = re.compile(r"后者|后一(?:个|种|款|台|家)|后面(?:这|那|的)|第二(?:个|种|款|台|家)|最后(?:那|一)(?:个|种|款|台|家)|\b(?:the latter|the second|the last one)\b", re.I)
_TWO = re.compile(r"俩|两(?:个|家|款|种|者|边|块|台|套|张|条)|它们|(?<![\w])(?:both|these two|those two|the two|of the two|two of them|they|them|either)(?![\w])", re.I)
_AT = re.compile(r"@([^\s@，,。:：]+)")


@dataclass(frozen=True, slots=True)
class Scene:
    """A question with everything the features need. ``lines`` oldest first; ``quote`` is the text that the question quotes or replies to ("" for none)."""

    question: str
    sender: str
    lines: tuple[ContextLine, ...]
    quote: str
    quoted_sender: str

    @classmethod
    def of(cls, question: str, sender: str, lines: Sequence[ContextLine]) -> Scene:
        who, quote, rest = split_quote(question)
        target = next((line for line in reversed(lines) if line.is_reply_target), None)
        if target is not None and not quote:
            who, quote = target.sender, split_quote(target.text)[2] or target.text
        return cls(rest or question, sender, tuple(lines), quote, who)


def bigrams(text: str) -> set[str]:
    """Character bigrams of the squeezed text."""
    flat = re.sub(r"[^\w\u3400-\u9fff]", "", squeeze(text))
    return {flat[i : i + 2] for i in range(len(flat) - 1)}


def addressed(text: str, names: Sequence[str]) -> set[str]:
    """Members of ``names`` whom ``text`` addresses: by @mention, or by a name at its very start."""
    plain = normalise(text)
    ats = {normalise(match) for match in _AT.findall(text)}
    return {name for name in names if normalise(name) in ats or any(at.startswith(normalise(name)) for at in ats) or (len(name) > 1 and plain.startswith(normalise(name)))}


def _named(text: str, names: Sequence[str]) -> set[str]:
    plain = normalise(text)
    return {name for name in names if len(name) > 1 and normalise(name) in plain}


# fmt: off
LINE_FEATURES = [
    "distance", "distance_share", "log_seconds", "same_sender", "is_quoted", "names_asker",
    "question_names_sender", "addressed_by_question", "sender_of_last", "since_askers_last", "is_askers_last",
    "after_askers_last", "is_question", "is_ack", "length", "n_latin", "shared_bigrams",
    "shared_bigram_share", "shared_latin", "mentions_someone", "talked_with_asker", "sender_share", "reach",
    "reach_rank", "reach_open", "n_lines", "question_length", "question_pronoun", "question_addresses", "asker_spoke", "gap",
    "asker_after", "replied_by_asker", "same_sender_as_next", "same_sender_as_previous", "link_to_asker",
]
# fmt: on


def reach(scene: Scene, names: Sequence[str], openness: float = 1.0) -> tuple[Array, Array]:
    """Random walk from the question up the likely reply links: (visits of each line, weights (n+1, n) of the links; row n is the question).

    The link weights are hand-set log-odds: a mention beats the same speaker, who beats the nearest line.
    """
    texts = [*(line.text for line in scene.lines), scene.question]
    senders = [*(line.sender for line in scene.lines), scene.sender]
    times = [*(-line.seconds_before for line in scene.lines), 0.0]
    n = len(scene.lines)
    weights = np.zeros((n + 1, n))
    names_in = [addressed(text, names) for text in texts]
    asks = [bool(_QUESTION.search(text)) for text in texts]
    for j in range(1, n + 1):
        logits = np.full(j, -1e9)
        last_of: dict[str, int] = {}
        for i in range(j):
            last_of[senders[i]] = i
        for i in range(j):
            value = -0.3 * (j - i) - 0.25 * math.log1p(max(0.0, times[j] - times[i]) / 30)
            if senders[i] in names_in[j]:
                value += 3.0 if last_of[senders[i]] == i else 1.0
            if senders[j] in names_in[i]:
                value += 2.5
            if senders[i] == senders[j]:
                value += 1.2 if last_of[senders[j]] == i else 0.0
            if asks[i] and senders[i] != senders[j] and not asks[j]:
                value += 0.8
            if names_in[i] and senders[j] not in names_in[i] and senders[i] != senders[j]:
                value -= 0.5
            logits[i] = value * openness
        soft = np.exp(logits - logits.max())
        weights[j, :j] = soft / soft.sum()
    visits = np.zeros(n + 1)
    visits[n] = 1.0
    for j in range(n, 0, -1):
        visits[:j] += 0.85 * visits[j] * weights[j, :j]
    return visits[:n], weights


def _rank(values: Array) -> Array:
    order = np.argsort(-values, kind="stable")
    out = np.empty(len(values))
    out[order] = np.arange(len(values))
    return out


def line_features(scene: Scene) -> Array:
    """Features of each line, shape (n, len(LINE_FEATURES))."""
    lines, n = scene.lines, len(scene.lines)
    senders = [line.sender for line in lines]
    names = list(dict.fromkeys([*senders, scene.sender]))
    visits, weights = reach(scene, names)
    visits_open, _ = reach(scene, names, 0.5)
    visit_rank = _rank(visits)
    question_names = _named(scene.question, names)
    question_addresses = addressed(scene.question, names) | ({scene.quoted_sender} if scene.quoted_sender else set())
    asker_lines = [i for i, sender in enumerate(senders) if sender == scene.sender]
    askers_last = asker_lines[-1] if asker_lines else -1
    addressed_in = [addressed(line.text, names) for line in lines]
    partners = {senders[i] for i in range(n) if scene.sender in addressed_in[i]} | {name for i in asker_lines for name in addressed_in[i]}
    asked, asked_latin = bigrams(scene.question), set(latin_words(scene.question))
    quote = squeeze(scene.quote).rstrip(".…")
    rows = []
    for i, line in enumerate(lines):
        shared = len(bigrams(line.text) & asked)
        quoted = line.is_reply_target or (bool(quote) and squeeze(line.text).startswith(quote[:12]))
        rows.append(
            [
                n - i,
                (n - i) / n,
                math.log1p(max(0.0, line.seconds_before)),
                senders[i] == scene.sender,
                quoted,
                scene.sender in addressed_in[i],
                senders[i] in question_names,
                senders[i] in question_addresses,
                senders[i] == senders[-1],
                askers_last - i if asker_lines else -99,
                i == askers_last,
                i > askers_last >= 0,
                bool(_QUESTION.search(line.text)),
                bool(_ACK.match(line.text)),
                len(line.text),
                len(latin_words(line.text)),
                shared,
                shared / (len(asked) + 1),
                len(asked_latin & set(latin_words(line.text))),
                bool(addressed_in[i]),
                senders[i] in partners,
                senders.count(senders[i]) / n,
                visits[i],
                visit_rank[i],
                visits_open[i],
                n,
                len(scene.question),
                bool(_PRONOUN.search(scene.question)),
                bool(question_addresses),
                bool(asker_lines),
                math.log1p(max(0.0, lines[-1].seconds_before)),
                sum(1 for k in asker_lines if k > i),
                any(scene.sender == senders[k] and weights[k, i] > 0.3 for k in range(i + 1, n)),
                i + 1 < n and senders[i + 1] == senders[i],
                i > 0 and senders[i - 1] == senders[i],
                weights[n, i],
            ]
        )
    return np.array(rows, dtype=np.float64).reshape(n, len(LINE_FEATURES))


# fmt: off
TERM_FEATURES = [
    "score_max", "score_sum", "score_rank", "score_last", "score_first", "score_max_share", "n_mentions",
    "n_lines", "n_senders", "substring_lines", "first_distance", "last_distance", "spread", "in_askers_line",
    "in_addressed_line", "in_quote", "in_question_line", "reach_max", "reach_sum",
    "tag_latin", "tag_number", "tag_noun", "tag_verb", "tag_of", "n_tokens", "length", "maximal",
    "left_break", "right_break", "line_start", "line_share", "n_latin_words", "has_upper", "has_sign",
    "has_digit", "mixed", "overlap_question", "in_question", "head_match", "head_in_line", "rivals_in_line",
    "rivals", "rank_rivals_nearer", "extends_better", "rarity", "capital_ratio", "verb_first", "verb_last",
    "noun_last", "best_distance", "best_same_sender", "best_is_question", "best_names_asker",
    "best_addressed", "best_n_terms", "best_is_askers_last", "question_length", "question_pronoun",
    "question_has_head", "question_latin", "n_lines_all", "asker_mentioned", "partner_mentioned",
    "mentions_after_share", "latin_in_window", "first_mention_by_asker", "last_mention_by_asker",
    "before_tag", "after_tag", "is_top_line_only", "place_in_pair", "place_asked_for", "option_named_later",
]
# fmt: on

_TAG_CODE = {tag: index for index, tag in enumerate("PXUMNVALW")}


def head_of(question: str) -> str:
    """The noun of the question's first demonstrative noun phrase ("那个包" -> "包"); "" without one."""
    match = _REFERRING_HEAD.search(question)
    return squeeze(match.group(1) or match.group(2) or "") if match else ""


def asks_for_two(question: str) -> bool:
    """Whether a question speaks of two or more things at once ("那俩", "both of them"): one name then says half."""
    return bool(_TWO.search(question))


def terms_of(scene: Scene) -> list[Term]:
    """Candidate terms of the lines and of the quotation (which counts as standing in the last line); those that the question says itself are left out."""
    texts = [split_quote(line.text)[2] or line.text for line in scene.lines]
    terms = collect(texts)
    if scene.quote:
        known = {term.key for term in terms}
        terms.extend(term for term in collect([""] * (len(texts) - 1) + [scene.quote]) if term.key not in known)
    asked = squeeze(scene.question)
    return [term for term in terms if term.key not in asked]


def _standing_in(term: Term, start: int, body: str, quote: str) -> str:
    """The text that a mention stands in: the ``body`` of its line, or the quotation, whose own terms are said to stand in the last line."""
    return body if squeeze(body[start : start + len(term.text)]) == term.key else quote


def place_in_pair(text: str, start: int, end: int) -> int:
    """Of a term at ``start`` to ``end`` among alternatives that are named side by side ("A 还是 B", "A or B"): 1 the first, 2 the last, 3 one between, 0 alone."""
    first, last = bool(_BEFORE_ANOTHER.match(text, end)), bool(_AFTER_ANOTHER.search(text[:start]))
    return 3 if first and last else 1 if first else 2 if last else 0


def place_asked_for(question: str) -> int:
    """Which of two alternatives a question means: 1 the former, 2 the latter, 0 neither or both."""
    former, latter = bool(_FORMER.search(question)), bool(_LATTER.search(question))
    return 0 if former == latter else 1 if former else 2


def term_features(scene: Scene, terms: Sequence[Term], lines: Array, line_scores: Array, rarity: Callable[[str], float]) -> Array:
    """Features of each term, (len(terms), len(TERM_FEATURES)). ``lines`` from :func:`line_features`, ``line_scores`` the line ranker's probabilities (n,)."""
    n = len(scene.lines)
    column = {name: index for index, name in enumerate(LINE_FEATURES)}
    flat_lines = [squeeze(line.text) for line in scene.lines]
    bodies = [split_quote(line.text)[2] or line.text for line in scene.lines]
    line_rank = _rank(line_scores)
    top = float(line_scores.max()) if n else 0.0
    asked_flat, asked = squeeze(scene.question), bigrams(scene.question)
    head = head_of(scene.question)
    askers = {i for i, line in enumerate(scene.lines) if line.sender == scene.sender}
    per_line: dict[int, list[Term]] = {}
    for term in terms:
        for line in term.lines:
            per_line.setdefault(line, []).append(term)
    latin = [(term.key, term.lines[-1]) for term in terms if "L" in term.tags]
    quote, wanted = squeeze(scene.quote), place_asked_for(scene.question)
    rows = []
    for term in terms:
        where = term.lines
        best = max(where, key=lambda i: (line_scores[i], i))
        start = max(offset for line, offset in term.mentions if line == best)
        text = _standing_in(term, start, bodies[best], scene.quote)
        words = tokenise(text)
        before = next((word.tag for word in reversed(words) if word.end <= start), "P")
        after = next((word.tag for word in words if word.start >= start + len(term.text)), "P")
        same_line = per_line[best]
        containing = [other for other in same_line if other is not term and term.key in other.key]
        standing = [i for i, flat in enumerate(flat_lines) if term.key in flat]
        nearer = sum(1 for key, last in latin if last > where[-1] and key not in term.key and term.key not in key)
        letters = [c for c in term.text if c.isalpha() and c.isascii()]
        row = lines[best]
        places = [(line, place_in_pair(_standing_in(term, at, bodies[line], scene.quote), at, at + len(term.text))) for line, at in term.mentions]
        option, place = next(((line, place) for line, place in reversed(places) if place), (-1, 0))
        rows.append(
            [
                line_scores[where].max(),
                line_scores[where].sum(),
                line_rank[where].min(),
                line_scores[where[-1]],
                line_scores[where[0]],
                line_scores[where].max() / (top + 1e-9),
                len(term.mentions),
                len(where),
                len({scene.lines[i].sender for i in where}),
                len(standing),
                n - where[0],
                n - where[-1],
                where[-1] - where[0],
                any(i in askers for i in where),
                any(lines[i][column["addressed_by_question"]] for i in where),
                bool(quote) and term.key in quote,
                any(lines[i][column["is_question"]] for i in where),
                max(lines[i][column["reach"]] for i in where),
                sum(lines[i][column["reach"]] for i in where),
                term.tags.count("L"),
                term.tags.count("M"),
                term.tags.count("N"),
                term.tags.count("V"),
                term.tags.count("U"),
                len(term.tags),
                len(term.text),
                not containing,
                before in "PX",
                after in "PX",
                start == 0,
                start / (len(text) + 1),
                len(latin_words(term.text)),
                any(c.isupper() for c in term.text),
                bool(re.search(r"[-_./]", term.text)),
                any(c.isdigit() for c in term.text),
                bool(letters) and any("\u3400" <= c <= "\u9fff" for c in term.text),
                len(bigrams(term.text) & asked),
                sum(word in asked_flat for word in latin_words(term.text)),
                bool(head) and term.key.endswith(head),
                bool(head) and head in flat_lines[best],
                sum("L" in other.tags for other in same_line),
                len(terms),
                nearer,
                len(containing),
                rarity(term.text),
                sum(c.isupper() for c in letters) / (len(letters) + 1),
                term.tags[0] == "V",
                term.tags[-1] == "V",
                term.tags[-1] == "N",
                n - best,
                row[column["same_sender"]],
                row[column["is_question"]],
                row[column["names_asker"]],
                row[column["addressed_by_question"]],
                len(same_line),
                row[column["is_askers_last"]],
                len(scene.question),
                row[column["question_pronoun"]],
                bool(head),
                len(latin_words(scene.question)),
                n,
                any(i in askers for i in standing),
                any(lines[i][column["addressed_by_question"]] for i in standing),
                sum(i > best for i in standing) / n,
                len(latin),
                where[0] in askers,
                where[-1] in askers,
                _TAG_CODE.get(before, 0),
                _TAG_CODE.get(after, 0),
                len(standing) == 1 and line_rank[best] == 0,
                place,
                0 if not wanted or place not in (1, 2) else 1 if place == wanted else -1,
                sum(i > option and scene.lines[i].sender != scene.lines[option].sender for i in standing) if place else 0,
            ]
        )
    return np.array(rows, dtype=np.float64).reshape(len(terms), len(TERM_FEATURES))
