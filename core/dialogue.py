"""Two people's first lines: an editor and a language model, both trained on such dialogues, rewrite the question together.

In a group the right thing has to be chosen among many (:mod:`core.ranker` does that). Where only two people have spoken, in three lines at most, there is little to choose, and
what is left out is as often a person, a deed or a whole clause, which no list of candidate terms holds. The editor (:mod:`core.dialogue_editor`) proposes edits, the language model
says how likely each is. Where only one of them runs it decides alone; the language model writes freely then.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from core.antecedents import split_quote
from core.dialogue_editor import Edit
from core.errors import BackendError, InputError
from core.gates.worker import ModelWorker
from core.grounding import refusal
from core.messages import Question, RefusalReason, Resolution
from core.ports import LanguageModel, Resolver
from core.resolver_prompts import DIALOGUE_PROMPTS, flat, rewrite_prompt

log = structlog.get_logger(__name__)

MOST_LINES: Final = 3
MOST_TOKENS: Final = 64
#: Edits that the language model is asked about.
MOST_EDITS: Final = 6
#: Who decides, and what its confidence looks at: the editor's log-probability of the rewrite, mean and least of the language model's over its tokens, the lead over the next one.
WAYS: Final[Mapping[str, tuple[str, ...]]] = {"both": ("editor", "mean", "least", "lead"), "editor": ("editor", "lead"), "writer": ("mean", "least")}
_MOST_LEAD: Final = 10.0
_REMEDY: Final = "Reinstall doujie, or make it: python -m scripts.training.dialogue"


class Editor(Protocol):
    """What proposes rewrites: :class:`core.dialogue_editor.DialogueEditor`."""

    def edits(self, question: Question, most: int) -> list[Edit]: ...


def is_dialogue(question: Question) -> bool:
    """Whether only the asker and one other have spoken before, in :data:`MOST_LINES` lines at most, and the question replies to nothing by quotation."""
    lines = question.context
    if not question.has_antecedents or len(lines) > MOST_LINES or split_quote(question.text)[1]:
        return False
    return len({question.sender, *(line.sender for line in lines)}) <= 2 and not any(line.is_reply_target for line in lines)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rewrite. ``editor``: the editor's log-probability of it; ``writer``: the language model's of its tokens. Natural logs; None where nobody was asked."""

    text: str
    editor: float | None
    writer: tuple[float, ...] | None

    @property
    def score(self) -> float:
        """Log of the product of both opinions, up to a constant."""
        return (self.editor or 0.0) + sum(self.writer or ())


@dataclass(frozen=True, slots=True)
class Choice:
    """The best of some candidates, who decided, and the numbers of :data:`WAYS` that its confidence looks at."""

    text: str
    way: str
    features: dict[str, float]


def choose(candidates: Sequence[Candidate]) -> Choice | None:
    """None where there is nothing to choose."""
    ranked = sorted(candidates, key=lambda one: -one.score)
    if not ranked:
        return None
    best = ranked[0]
    features = {"lead": min(_MOST_LEAD, best.score - ranked[1].score) if len(ranked) > 1 else _MOST_LEAD}
    if best.editor is not None:
        features["editor"] = best.editor
    if best.writer is not None:
        features |= {"mean": sum(best.writer) / max(1, len(best.writer)), "least": min(best.writer, default=-99.0)}
    way = "writer" if best.editor is None else "editor" if best.writer is None else "both"
    return Choice(best.text, way, {name: features[name] for name in WAYS[way]})


@dataclass(frozen=True, slots=True)
class Confidence:
    """P(a rewrite says what is meant) = logistic(bias + the sum of weight * number), and the least of it that is accepted."""

    bias: float
    weights: dict[str, float]
    threshold: float

    def __call__(self, features: Mapping[str, float]) -> float:
        """0..1."""
        z = self.bias + sum(weight * features[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, z))))


@dataclass(frozen=True, slots=True)
class DialogueCalibration:
    """The confidence of each of :data:`WAYS`. ``prompt``: the version that the language model's adapter was trained with; ``editor``: that of the editor."""

    version: str
    prompt: str
    editor: str
    ways: dict[str, Confidence]

    @classmethod
    def load(cls, path: Path) -> DialogueCalibration:
        """Raises InputError for a file that is missing or of another form."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            ways = {way: _confidence(data["ways"][way], names) for way, names in WAYS.items()}
            found = cls(str(data["version"]), str(data["prompt"]), str(data["editor"]), ways)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(str(path), f"no calibration of a dialogue's rewrites ({error})", _REMEDY) from None
        if found.prompt not in DIALOGUE_PROMPTS:
            raise InputError(str(path), f"its prompt {found.prompt!r} is none of a dialogue", _REMEDY)
        return found


def _confidence(data: Mapping[str, Any], names: Sequence[str]) -> Confidence:
    return Confidence(float(data["bias"]), {name: float(data["weights"][name]) for name in names}, float(data["threshold"]))


async def candidates_of(question: Question, edits: Sequence[Edit], model: LanguageModel | None, prompt: str) -> list[Candidate]:
    """The editor's ``edits`` with what ``model`` says of them; what it writes where there are none. Raises BackendError."""
    if model is None:
        return [Candidate(edit.text, edit.logprob, None) for edit in edits]
    asked = rewrite_prompt(prompt, question, question.context)
    if not edits:
        generation = await model.generate(asked, MOST_TOKENS)
        return [Candidate(generation.text.strip(), None, tuple(generation.logprobs or (-99.0,)))]
    said = await model.score(asked, [f" {flat(edit.text)}\n" for edit in edits])
    return [Candidate(edit.text, edit.logprob, tuple(logprobs)) for edit, logprobs in zip(edits, said, strict=True)]


class DialogueResolver:
    """Implements :class:`core.ports.Resolver`: short dialogues are rewritten by ``editor`` and ``writer``, or by the one that is there; all else, and whatever they leave as it is
    or fail at, goes to ``group``.

    Where what they choose is refused, nothing is said: what ``group`` is sure of in such a question is wrong too often. ``min_confidence`` None: the calibration's threshold.
    """

    def __init__(
        self,
        group: Resolver,
        worker: ModelWorker,
        editor: Editor | None,
        writer: LanguageModel | None,
        calibration: DialogueCalibration,
        min_confidence: float | None = None,
    ) -> None:
        self._group, self._worker, self._editor, self._writer = group, worker, editor, writer
        self._calibration, self._least = calibration, min_confidence

    async def resolve(self, question: Question) -> Resolution:
        """See :class:`core.ports.Resolver`."""
        started = time.perf_counter()
        if not is_dialogue(question):
            return await self._group.resolve(question)
        chosen = choose(await self._candidates(question))
        if chosen is None:
            return await self._group.resolve(question)
        calibrated = self._calibration.ways[chosen.way]
        confidence = calibrated(chosen.features)
        reason, found = refusal(question, chosen.text, confidence, calibrated.threshold if self._least is None else self._least)
        if reason in (RefusalReason.NO_CANDIDATE, RefusalReason.UNCHANGED):
            second = await self._group.resolve(question)
            return replace(second, latency_ms=(time.perf_counter() - started) * 1000.0)
        return Resolution(
            candidate=chosen.text,
            rewrite=chosen.text if reason is None else None,
            confidence=confidence,
            model=f"dialogue {self._calibration.version}",
            prompt_version=self._calibration.prompt,
            reason=reason,
            adapter=self._writer.adapter if self._writer is not None and chosen.way != "editor" else "",
            latency_ms=(time.perf_counter() - started) * 1000.0,
            invented=found.invented,
        )

    async def _candidates(self, question: Question) -> list[Candidate]:
        edits = await self._worker.run(self._editor.edits, question, MOST_EDITS) if self._editor is not None else []
        if self._editor is not None and not edits:
            return []
        try:
            return await candidates_of(question, edits, self._writer, self._calibration.prompt)
        except BackendError as error:
            log.warning("dialogue_writer_failed", backend=error.backend, problem=error.problem, effect="the editor decides" if edits else "the ranker decides")
            return await candidates_of(question, edits, None, self._calibration.prompt)

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        await self._group.close()
