"""The gate: from cheap to dear. The encoder head settles what is sure in milliseconds; the language model judges the rest by the log-odds of its two answer tokens; one
calibrated probability joins both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from core.errors import BackendError
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration, sigmoid
from core.messages import GateVersion, Question, Verdict
from core.ports import LanguageModel
from core.prompts import DEFAULT_GATE_PROMPT, GATE_PROMPTS, gate_prompt

log = structlog.get_logger(__name__)

#: Where nothing was calibrated: the point of even odds.
UNCALIBRATED_THRESHOLD = 0.5


class CascadeGate:
    """Implements :class:`core.ports.Gate` with a head, a language model, or both.

    Without a ``calibration`` (any model but the shipped one) the probability is that of the answer "yes" against "no". When the language model fails and a head is at
    hand, the head judges alone.
    """

    def __init__(
        self,
        model: LanguageModel | None,
        head: EncoderHead | None,
        calibration: GateCalibration | None,
        worker: ModelWorker,
        *,
        threshold: float | None = None,
        prompt: str = "",
    ) -> None:
        if model is None and (head is None or calibration is None):
            raise ValueError("a gate needs a language model, or a head with its calibration")
        self._model, self._calibration, self._worker = model, calibration, worker
        self._head = head if calibration is not None else None
        self.threshold = threshold if threshold is not None else (calibration.threshold if calibration else UNCALIBRATED_THRESHOLD)
        self.prompt = prompt or (calibration.prompt if calibration else DEFAULT_GATE_PROMPT)

    @property
    def versions(self) -> frozenset[GateVersion]:
        """What this gate's verdicts bear: the language model with its adapter and prompt, and the head where it can judge alone."""
        by_model = [] if self._model is None else [GateVersion(self._model.name, self._model.adapter, self.prompt)]
        return frozenset([*by_model, *([] if self._head is None else [self._head_version])])

    @property
    def _head_version(self) -> GateVersion:
        assert self._head is not None
        return GateVersion(f"head {self._head.version}")

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """See :class:`core.ports.Gate`. ``latency_ms`` of a verdict is its share of the call."""
        started = time.perf_counter()
        head_logits = await self._head_logits(questions)
        open_ = [i for i, (question, logit) in enumerate(zip(questions, head_logits, strict=True)) if not self._settled(logit, question)]
        head_ms = _milliseconds(started) / max(1, len(questions))
        started = time.perf_counter()
        lm_logits: dict[int, float] = {}
        if open_ and self._model is not None:
            lm_logits = dict(zip(open_, await self._lm_logits([questions[i] for i in open_]), strict=False))
        lm_ms = _milliseconds(started) / max(1, len(open_))
        return [self._verdict(question, head_logits[i], lm_logits.get(i), head_ms + (lm_ms if i in lm_logits else 0.0)) for i, question in enumerate(questions)]

    async def _head_logits(self, questions: Sequence[Question]) -> Sequence[float | None]:
        if self._head is None:
            return [None] * len(questions)
        return await self._worker.run(self._head.probability_logit, questions)

    def _settled(self, head_logit: float | None, question: Question) -> bool:
        if head_logit is None or self._calibration is None:
            return False
        return self._model is None or self._calibration.is_sure(head_logit, len(question.text))

    async def _lm_logits(self, questions: Sequence[Question]) -> list[float]:
        """Log-odds of "needs resolution" against "stands alone"; empty when the model failed and the head can do alone."""
        assert self._model is not None
        form = GATE_PROMPTS[self.prompt]
        try:
            rows = await self._model.answer_logprobs([gate_prompt(question, question.glossary, self.prompt) for question in questions], form.answers)
        except BackendError as error:
            if self._head is None:
                raise
            log.warning("gate_without_language_model", backend=error.backend, problem=error.problem, questions=len(questions))
            return []
        return [yes - no for yes, no in rows]

    def _verdict(self, question: Question, head_logit: float | None, lm_logit: float | None, latency_ms: float) -> Verdict:
        if self._calibration is not None:
            probability = self._calibration.combine(head_logit, lm_logit, len(question.text))
        else:
            assert lm_logit is not None
            probability = sigmoid(lm_logit)
        if lm_logit is None or self._model is None:
            version, stage = self._head_version, "encoder"
        else:
            version, stage = GateVersion(self._model.name, self._model.adapter, self.prompt), "lm"
        return Verdict(probability, self.threshold, version.model, version.prompt_version, stage, version.adapter, latency_ms)

    async def close(self) -> None:
        if self._model is not None:
            await self._model.close()


def _milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000
