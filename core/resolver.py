"""Rewriting a question so that it stands alone, or saying why not.

Two ways, one acceptance rule (:mod:`core.grounding`): :class:`EditResolver` ranks the names and noun phrases of the conversation and puts the best one into the question;
:class:`GenerativeResolver` lets a language model write freely and asks the ranker whether it agrees.
"""

from __future__ import annotations

import math
import re
import time
from itertools import accumulate

import structlog

from core.antecedent_reader import AntecedentReader
from core.antecedents import split_quote
from core.edit import place
from core.errors import BackendError
from core.gates.worker import ModelWorker
from core.grounding import refusal, tokens
from core.messages import Question, RefusalReason, Resolution
from core.ports import LanguageModel
from core.ranker import AntecedentRanker, Ranking
from core.resolver_prompts import DEFAULT_REWRITE_PROMPT, lines_shown, rewrite_prompt

log = structlog.get_logger(__name__)

EDIT_VERSION = "edit-v1"
#: A free rewrite is accepted from this confidence on unless the config says otherwise: no shipped calibration can know a model that somebody else runs.
GENERATIVE_THRESHOLD = 0.5


class EditResolver:
    """Implements :class:`core.ports.Resolver` with the ranker, a reader where there is one, and one edit.

    While the reader fails, the ranker decides alone. ``min_confidence`` None: the shipped thresholds.
    """

    def __init__(self, ranker: AntecedentRanker, worker: ModelWorker, min_confidence: float | None = None, reader: AntecedentReader | None = None) -> None:
        self._ranker, self._worker, self._reader = ranker, worker, reader
        self._min_confidence = min_confidence

    async def resolve(self, question: Question) -> Resolution:
        """The best term that passes the acceptance rule, or the reason why there is none."""
        started = time.perf_counter()
        reason: RefusalReason | None = RefusalReason.NO_CANDIDATE if question.has_antecedents else RefusalReason.NO_CONTEXT
        candidate: str | None = None
        confidence, adapter = 0.0, ""
        invented: tuple[str, ...] = ()
        found = await self._worker.run(self._ranked, question) if question.has_antecedents else None
        if found is not None:
            ranking, adapter = found
            candidate, confidence = place(question.text, ranking.put_in), ranking.confidence
            reason, grounding = refusal(question, candidate, confidence, ranking.threshold if self._min_confidence is None else self._min_confidence)
            invented = grounding.invented
        return Resolution(
            candidate=candidate,
            rewrite=candidate if reason is None else None,
            confidence=confidence,
            model=f"ranker {self._ranker.version}",
            prompt_version=EDIT_VERSION,
            reason=reason,
            adapter=adapter,
            latency_ms=(time.perf_counter() - started) * 1000.0,
            invented=invented,
        )

    def _ranked(self, question: Question) -> tuple[Ranking, str] | None:
        """(ranking, adapter of the reader that took part); None when the context holds no candidate."""
        found = self._ranker.candidates(question)
        if found is None:
            return None
        read, adapter, reader = None, "", self._reader  # close() takes it away while this runs in its thread
        if reader is not None and self._ranker.hears("reader"):
            try:
                read = reader.point(found.scene, found.terms, found.line_scores)
                adapter = reader.adapter if read is not None else ""
            except BackendError as error:
                log.warning("reader_failed", backend=error.backend, problem=error.problem, effect="the ranker decides alone")
        return self._ranker.rank(found, read), adapter

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await self._worker.run(reader.close)


class GenerativeResolver:
    """Implements :class:`core.ports.Resolver` with a language model that writes freely.

    Its confidence is the geometric mean of the token probabilities, lowered when the ranker (if there is one) prefers another antecedent than the rewrite names. Where the server
    gives no token probabilities, the ranker alone speaks: see :func:`agreed_confidence`; without a ranker it is 0.
    """

    def __init__(
        self,
        model: LanguageModel,
        worker: ModelWorker,
        ranker: AntecedentRanker | None = None,
        *,
        min_confidence: float | None = None,
        prompt_version: str = DEFAULT_REWRITE_PROMPT,
        context_lines: int = 16,
        max_tokens: int = 160,
    ) -> None:
        self._model, self._worker, self._ranker = model, worker, ranker
        self._min_confidence = GENERATIVE_THRESHOLD if min_confidence is None else min_confidence
        self._prompt_version, self._context_lines, self._max_tokens = prompt_version, context_lines, max_tokens

    async def resolve(self, question: Question) -> Resolution:
        """Generate greedily, then accept or refuse. Raises :class:`core.errors.BackendError`."""
        started = time.perf_counter()
        if not question.has_antecedents:
            return self._resolution(None, 0.0, RefusalReason.NO_CONTEXT, started, self._wrote)
        prompt = rewrite_prompt(self._prompt_version, question, lines_shown(question.context, self._context_lines))
        generation = await self._model.generate(prompt, self._max_tokens)
        wrote = self._wrote  # of several models another may answer the next question while the ranker works
        candidate = generation.text.strip()
        confidence = math.exp(sum(generation.logprobs) / len(generation.logprobs)) if generation.logprobs else None
        if self._ranker is not None and candidate:
            candidates = await self._worker.run(self._ranker.candidates, question)
            ranking = self._ranker.rank(candidates) if candidates else None
            confidence = agreed_confidence(candidate, ranking) if confidence is None else confidence * agreement(candidate, ranking)
        confidence = confidence or 0.0
        reason, found = refusal(question, candidate, confidence, self._min_confidence)
        return self._resolution(candidate or None, confidence, reason, started, wrote, found.invented)

    async def close(self) -> None:
        await self._model.close()

    @property
    def _wrote(self) -> tuple[str, str]:
        """(name, adapter) of the model that answered last."""
        return self._model.name, self._model.adapter

    def _resolution(
        self, candidate: str | None, confidence: float, reason: RefusalReason | None, started: float, wrote: tuple[str, str], invented: tuple[str, ...] = ()
    ) -> Resolution:
        return Resolution(
            candidate=candidate,
            rewrite=candidate if reason is None else None,
            confidence=confidence,
            model=wrote[0],
            prompt_version=self._prompt_version,
            reason=reason,
            adapter=wrote[1],
            latency_ms=(time.perf_counter() - started) * 1000.0,
            invented=invented,
        )


def agreement(candidate: str, ranking: Ranking | None) -> float:
    """How far the ranker backs a free rewrite, 0.5..1: see :func:`backing`."""
    return 0.5 + 0.5 * backing(candidate, ranking)


def agreed_confidence(candidate: str, ranking: Ranking | None) -> float:
    """The confidence of a free rewrite whose own probability is not known, 0..1.

    Writer and ranker choose apart from each other: where the rewrite names the ranker's first term it is half-way from the ranker's own confidence to certainty, so 0.5 at least,
    and it falls with the share of the best term that the rewrite does add, to 0 when it adds none that the ranker knows.
    """
    return 0.0 if ranking is None else backing(candidate, ranking) * 0.5 * (1.0 + ranking.confidence)


def backing(candidate: str, ranking: Ranking | None) -> float:
    """1 when what a rewrite adds is the ranker's first term; else the share of the longest term that it adds over that of the first; 0 when it adds no term that was ranked.

    Terms that the question says itself are not ranked.
    """
    if ranking is None:
        return 0.0
    written = split_quote(candidate)[2]
    added = [(len(term.key), share) for term, share in zip(ranking.terms, ranking.shares, strict=True) if names(written, term.text)]
    return max(added)[1] / ranking.shares[0] if added else 0.0


def names(text: str, term: str) -> bool:
    """Whether ``term`` stands in ``text`` as a whole: "yolov8" neither in "yolov8-pose" nor in "yolov8s". White space does not count."""
    words = tokens(text)
    ends = set(accumulate((len(word) for word in words), initial=0))
    held, sought = "".join(words), "".join(tokens(term))
    return any(match.start() in ends and match.start() + len(sought) in ends for match in re.finditer(f"(?={re.escape(sought)})", held)) if sought else False
