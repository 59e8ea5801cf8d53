"""Why a logged question deserves a human eye. Pure: what is known of the question comes in, queue entries come out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.messages import RefusalReason, Verdict
from core.near_duplicates import NearDuplicates, frequencies
from storage.questions import LoggedQuestion
from storage.review_queue import QueueItem, QueueReason, priority_of

#: Distance from the threshold, in log-odds, within which a verdict is near it: at 0.5 from 0.27 to 0.73.
NEAR_LOG_ODDS = 1.0
_SMALLEST = 1e-9
# What no labeller can help: nothing was tried.
_NOT_REFUSALS = (RefusalReason.BACKEND_FAILED, RefusalReason.SWITCHED_OFF)


def reason_to_look(logged: LoggedQuestion, verdicts: Sequence[Verdict], complained_at: datetime | None, new_words: Sequence[str]) -> QueueItem | None:
    """The most urgent reason, or None. ``verdicts``: all of the question, oldest first; ``new_words``: those that no earlier question had.

    A labelled question needs no second look, unless a member complained after it was labelled.
    """
    question_id = logged.question.id
    if complained_at is not None and (logged.label is None or logged.label.created_at < complained_at):
        return QueueItem(question_id, QueueReason.COMPLAINT, priority_of(QueueReason.COMPLAINT), f"{complained_at:%Y-%m-%d}")
    if logged.label is not None:
        return None
    found = (_disagreement(question_id, verdicts), _refusal(logged), _nearness(logged), _novelty(question_id, new_words))
    return next((item for item in found if item is not None), None)


def _disagreement(question_id: str, verdicts: Sequence[Verdict]) -> QueueItem | None:
    """The newest verdicts of two versions that decide differently; the further apart, the more urgent."""
    newest = {verdict.version: verdict for verdict in verdicts}.values()
    yes = max((verdict for verdict in newest if verdict.needs_resolution), key=lambda verdict: verdict.probability, default=None)
    no = min((verdict for verdict in newest if not verdict.needs_resolution), key=lambda verdict: verdict.probability, default=None)
    if yes is None or no is None:
        return None
    detail = "; ".join(f"{verdict.version}: {verdict.probability:.2f} / {verdict.threshold:.2f}" for verdict in (yes, no))
    return QueueItem(question_id, QueueReason.DISAGREEMENT, priority_of(QueueReason.DISAGREEMENT, yes.probability - no.probability), detail)


def _refusal(logged: LoggedQuestion) -> QueueItem | None:
    resolution, verdict = logged.resolution, logged.verdict
    if resolution is None or resolution.reason is None or resolution.reason in _NOT_REFUSALS or (verdict is not None and not verdict.needs_resolution):
        return None
    detail = f"{resolution.reason.value} {resolution.confidence:.2f}"
    return QueueItem(logged.question.id, QueueReason.REFUSED, priority_of(QueueReason.REFUSED, resolution.confidence), detail)


def _nearness(logged: LoggedQuestion) -> QueueItem | None:
    verdict = logged.verdict
    if verdict is None:
        return None
    distance = abs(_log_odds(verdict.probability) - _log_odds(verdict.threshold))
    if distance > NEAR_LOG_ODDS:
        return None
    detail = f"{verdict.probability:.2f} / {verdict.threshold:.2f}"
    return QueueItem(logged.question.id, QueueReason.NEAR_THRESHOLD, priority_of(QueueReason.NEAR_THRESHOLD, 1 - distance / NEAR_LOG_ODDS), detail)


def _novelty(question_id: str, new_words: Sequence[str]) -> QueueItem | None:
    if not new_words:
        return None
    return QueueItem(question_id, QueueReason.NEW_WORDS, priority_of(QueueReason.NEW_WORDS, 1 - 1 / (1 + len(new_words))), ", ".join(new_words[:8]))


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(bounded / (1 - bounded))


@dataclass(frozen=True, slots=True)
class Choice:
    """The queue as it should be, most urgent first; ``left_out``: queued so far, but like a more urgent entry, or too much."""

    items: list[QueueItem]
    left_out: list[str]
    duplicates: int


def choose(candidates: Iterable[QueueItem], queued: Iterable[QueueItem], texts: dict[str, str], labelled: Iterable[str], size: int) -> Choice:
    """At most ``size`` entries out of those that wait and those that could, of questions that are alike the most urgent one only.

    ``texts``: of the questions, by id; ``labelled``: texts of questions that have a label: what is like one of them was answered already, but a complaint is heard all the same.
    Suspect labels come from elsewhere: they stay, and take no other's place.
    """
    best: dict[str, QueueItem] = {}
    waiting = {item.question_id: item for item in queued if item.question_id in texts}
    for item in (*waiting.values(), *candidates):
        if item.question_id not in best or item.priority > best[item.question_id].priority:
            best[item.question_id] = item
    labelled = list(labelled)
    common = frequencies([*labelled, *texts.values()])
    answered, taken = NearDuplicates(common=common), NearDuplicates(common=common)
    for number, text in enumerate(labelled):
        answered.add(str(number), text)
    kept: list[QueueItem] = []
    counted = duplicates = 0
    for item in sorted(best.values(), key=lambda item: (-item.priority, item.question_id)):
        text, suspect = texts[item.question_id], item.reason is QueueReason.SUSPECT_LABEL
        alike = taken.find(text) is not None or (item.reason is not QueueReason.COMPLAINT and answered.find(text) is not None)
        duplicates += alike and not suspect
        if suspect or (not alike and counted < size):
            counted += not suspect
            taken.add(item.question_id, text)
            kept.append(item)
    stays = {item.question_id for item in kept}
    return Choice(kept, [question_id for question_id in waiting if question_id not in stays], duplicates)
