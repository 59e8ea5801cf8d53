"""Windows as training material of the antecedent ranker: which lines and which candidate terms are right."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from core.antecedent_features import Array, Scene, line_features, terms_of
from core.antecedents import Term, latin_words, tokenise
from core.edit import place
from core.errors import InputError
from core.grounding import is_free, squeeze, tokens
from core.messages import ContextLine, join_texts
from scripts.evaluation.forms import Window, WindowQuestion
from scripts.evaluation.windows import is_right

FOLDS = 5
#: What the id of a case with an invented reply ends in.
REPLY = "~reply"
#: Share of invented replies that go to a later message of the thread, and to any message.
LATER_REPLIES, STRAY_REPLIES = 0.25, 0.07
#: Share of the questions that are also shown as replies in training: as hand-written windows without any say nothing about groups in which a third of all messages are replies.
REPLIES = 0.35


@dataclass(slots=True)
class Case:
    """One labelled question. ``grades`` of the terms: 3 all that gold adds, 2 most of it, 1 its name, 0 wrong; ``antecedent`` marks the lines (n,).
    ``fold`` keeps an author's windows together; ``must_contain`` and ``must_not_contain`` say what makes a rewrite right, where the author listed it."""

    id: str
    fold: int
    label: str
    gold: str | None
    scene: Scene
    lines: Array
    terms: list[Term]
    grades: NDArray[np.int64]
    antecedent: NDArray[np.bool_]
    must_contain: tuple[str, ...] = ()
    must_not_contain: tuple[str, ...] = ()

    @property
    def resolvable(self) -> bool:
        return self.gold is not None


def read_windows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """All windows of the files. Raises InputError that names file and line."""
    found: list[dict[str, Any]] = []
    seen: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(str(path), f"cannot be read ({error})", "Give files of group windows, one JSON object a line.") from None
        for number, line in enumerate(text.split("\n"), 1):  # no splitlines: U+2028 may stand inside a string of JSON
            if not line.strip():
                continue
            try:
                window = json.loads(line)
                Window.model_validate(window)
            except ValidationError as error:
                first = error.errors()[0]
                problem = f"not a group window ({'.'.join(map(str, first['loc']))}: {first['msg'].lower()})"
                raise InputError(f"{path}:{number}", problem, "Each line needs id, messages and questions.") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}", f"not a group window ({error})", "Each line needs id, messages and questions.") from None
            if seen.setdefault(window["id"], window) != window:
                raise InputError(f"{path}:{number}", f"another window has the id {window['id']!r} too", "Give each window an id of its own: what is measured is kept by it.")
            found.append(window)
    if len({fold_of(str(window["id"])) for window in found}) < 2:
        raise InputError(
            ", ".join(map(str, paths)),
            "too few authors",
            "Give windows of at least two authors: the prefix of an id, up to the dash, names its author, whose number tells one of five folds: 1 and 6 share one.",
        )
    return found


def author(window_id: str) -> str:
    """Who wrote a window, or the window of a case: the prefix of its id; the id of the window where that has none."""
    return window_id.partition("#")[0].split("-")[0]


def fold_of(window_id: str) -> int:
    """Authors are dealt out to FOLDS folds by their number, whoever invited them: t1, t6, t11 and u1 share a fold."""
    digits = re.sub(r"\D", "", author(window_id))
    return (int(digits) - 1 if digits else sum(author(window_id).encode())) % FOLDS


def cases(windows: Sequence[dict[str, Any]], replies: float = 0.0, seed: int = 1) -> list[Case]:
    """Every labelled question with context and at least one candidate term; what is no question is left out.

    ``replies``: for such a share of the questions a second case is made in which the question replies to an earlier message, as members of Feishu and WeChat groups often do and
    most windows do not show; its id ends in REPLY.
    """
    found = []
    for window in windows:
        rng = random.Random(f"{seed}-{window['id']}")  # its own, so that processes can share the windows out
        for number, labelled in enumerate(window["questions"]):
            if labelled["label"] == "not_question":
                continue
            target = _own_target(window, labelled)
            invented = _invented_target(window, labelled, rng) if target is None and rng.random() < replies else None
            for id_end, quoted in (("", target), (REPLY, invented)):
                case = _case(window, number, labelled, quoted, id_end) if not id_end or quoted is not None else None
                if case is not None:
                    found.append(case)
    return found


def _own_target(window: dict[str, Any], labelled: dict[str, Any]) -> int | None:
    """The message that a question replies to in its window."""
    return next((target for index in labelled["indices"] if (target := window["messages"][index].get("reply_to")) is not None), None)


def _invented_target(window: dict[str, Any], labelled: dict[str, Any], rng: random.Random) -> int | None:
    """A message that the asker might have replied to: mostly the one that names what is meant, sometimes a later one of the same thread, seldom any other; never an own one."""
    messages, first = window["messages"], min(labelled["indices"])
    asker = messages[first]["sender"]
    others = [index for index in range(first) if messages[index]["sender"] != asker]
    named = [index for index in labelled.get("antecedent_indices") or () if index < first]
    if not others:
        return None
    if not named or rng.random() < STRAY_REPLIES:
        return rng.choice(others)
    last = max(named)
    thread = {messages[last]["sender"], *(name for name in {m["sender"] for m in messages} if f"@{name}" in messages[first]["text"])} - {asker}
    later = [index for index in others if index > last and (messages[index]["sender"] in thread or f"@{asker}" in messages[index]["text"])]
    if later and (last not in others or rng.random() < LATER_REPLIES):
        return rng.choice(later)
    return last if last in others else None


def _case(window: dict[str, Any], number: int, labelled: dict[str, Any], target: int | None, id_end: str) -> Case | None:
    messages, indices = window["messages"], labelled["indices"]
    asked = messages[indices[-1]]
    text = join_texts([messages[index]["text"] for index in indices])
    now = datetime.fromisoformat(asked["at"])
    earlier = [index for index in range(max(indices)) if index not in indices]
    context = [
        ContextLine(messages[i]["sender"], messages[i]["text"], seconds_before=(now - datetime.fromisoformat(messages[i]["at"])).total_seconds(), is_reply_target=i == target)
        for i in earlier
    ]
    scene = Scene.of(text, asked["sender"], context)
    terms = terms_of(scene) if context else []
    if not terms:
        return None
    lines = line_features(scene)
    gold = labelled.get("gold")
    grades = np.array([grade(text, gold, term) if gold else 0 for term in terms])
    wanted = set(labelled.get("antecedent_indices") or ())
    case_id = f"{window['id']}#{number}{id_end}"
    lists = (tuple(labelled.get(name) or ()) for name in ("must_contain", "must_not_contain"))
    return Case(case_id, fold_of(window["id"]), labelled["label"], gold, scene, lines, terms, grades, np.array([index in wanted for index in earlier]), *lists)


def added(question: str, gold: str) -> tuple[list[str], str]:
    """What ``gold`` adds to ``question``: Latin words, and Chinese characters that name something."""
    before, after = tokens(question), tokens(gold)
    latin: list[str] = []
    han = ""
    for tag, _, _, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for token in after[start:end] if tag != "equal" else ():
            if re.match("[a-z0-9]", token):
                latin += [token] if token not in before and not is_free(token) else []
            elif not is_free(token):
                han += token
    return latin, han


def names_it(term: Term, word: str) -> bool:
    """Whether ``term`` holds the name ``word``: short ones as a word of its own ("id" is no part of "video"), longer ones in any spelling."""
    return (word in term.key if len(word) > 3 else word in tokens(term.text)) or (len(term.key) >= 5 and term.key in word)


def grade(question: str, gold: str, term: Term) -> int:
    """0 wrong, 1 holds the name that gold adds, 2 most of what it adds, 3 all of it. Names weigh 3, other Latin words and numbers 1, a Chinese character 0.5."""
    latin, han = added(question, gold)
    names = [word for word in latin if re.search("[a-z]", word)]
    total = 3 * len(names) + (len(latin) - len(names)) + 0.5 * len(han)
    key, held = term.key, squeeze(gold)
    if not total:
        return 0
    foreign = [word for word in latin_words(term.text) if word not in held]
    has = [word for word in names if names_it(term, word)]
    own_han = [char for char in key if "\u3400" <= char <= "\u9fff"]
    alien = sum(char not in held for char in own_han)
    shared = sum(char in key for char in han)
    if not names and len(han) > 1 and not any(han[i : i + 2] in key for i in range(len(han) - 1)):
        shared = 0
    share = (3 * len(has) + sum(word in key for word in latin if word not in names) + 0.5 * shared) / total
    if alien > max(1.0, 0.34 * len(own_han)):
        share /= 2
    whole = all(names_it(term, word) or word in squeeze(question) for word in latin) and (not han or sum(char in key for char in han) / len(han) >= 0.7)
    if whole and alien <= 2 and not foreign:
        return 3
    named = (bool(has) and share >= 0.25 and len(foreign) <= len(has)) or (not names and share >= 0.6 and not foreign)
    return 0 if not named else 2 if share >= 0.6 and not foreign else 1


def rewritten_right(case: Case, put_in: str) -> bool:
    """Whether the question with ``put_in`` in its place is right as scripts.evaluate counts it: every wanted term and no unwanted one; without such lists, all that gold adds."""
    if case.gold is None:
        return False
    question = case.scene.question
    wanted = WindowQuestion(indices=(0,), label="yes", gold=case.gold, must_contain=case.must_contain, must_not_contain=case.must_not_contain)
    return is_right(wanted, question, place(question, put_in))


def word_frequency(windows: Sequence[dict[str, Any]], least: int = 3) -> dict[str, int]:
    """In how many windows each word stands, for words of at least ``least`` windows."""
    counts: Counter[str] = Counter()
    for window in windows:
        counts.update({squeeze(word.text) for message in window["messages"] for word in tokenise(message["text"]) if word.tag != "P"})
    return {word: count for word, count in sorted(counts.items()) if count >= least}


def wilson_upper(wrong: float, n: float, z: float = 1.0) -> float:
    """Upper bound of a share by Wilson's interval: the safety margin of the threshold."""
    if n <= 0:
        return 1.0
    share = wrong / n
    return (share + z * z / (2 * n) + z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / (1 + z * z / n)
