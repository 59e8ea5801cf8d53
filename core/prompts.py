"""Prompts, by name. A model is trained with one version and must be asked with the same: each verdict and rewrite records it.

Every prompt has its stable part first (see :class:`core.ports.Prompt`). Parts end in a line break and texts hold none, so that tokenising the parts one by one gives the tokens
of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.messages import ContextLine, Question
from core.ports import Prompt


@dataclass(frozen=True, slots=True)
class GatePrompt:
    """How the language model is asked whether a question needs the conversation around it.

    ``instruction`` is one line or empty. ``context_lines`` is how many of the last lines are shown (0: the question alone, which is what the labelling rule asks for), each cut
    to ``line_chars`` characters;
    ``question_chars`` bounds the question: its head and tail are kept. ``yes`` (needs resolution) and ``no`` are single tokens of Gemma's and SmolLM's vocabularies.
    """

    name: str
    instruction: str
    glossary_mark: str
    line_mark: str
    question_mark: str
    answer_mark: str
    context_lines: int
    line_chars: int
    question_chars: int = 400
    yes: str = "yes"
    no: str = "no"

    @property
    def answers(self) -> tuple[str, str]:
        """(needs resolution, stands alone): the order in which back ends are asked."""
        return self.yes, self.no

    def fill(self, question: str, lines: Sequence[str], glossary: Sequence[str] = ()) -> Prompt:
        """The prompt for one question; ``lines`` are earlier messages, oldest first."""
        fixed = f"{self.instruction}\n" if self.instruction else ""
        if glossary:
            fixed += f"{self.glossary_mark}{'、'.join(one_line(term) for term in glossary)}\n"
        shown = [one_line(line)[: self.line_chars] for line in lines][-self.context_lines :] if self.context_lines else []
        context = "".join(f"{self.line_mark}{line}\n" for line in shown if line)
        return Prompt(fixed, context, f"{self.question_mark}{shorten(one_line(question), self.question_chars)}\n{self.answer_mark}")


_RULE = "判断群聊里的这个问题能否独立成立：不看其他消息，能知道它在问什么吗？代词（它、这个、那个）指向别处，或缺少必要的对象，答 yes（缺少上文）；否则答 no。"

#: "gate-1" is what the shipped adapter was trained with: the question alone, as the labelling rule asks, and as few tokens as possible, because each one costs time on a CPU.
#: "gate-1-context" shows the
#: last lines too. "gate-rule" states the rule for models that were not trained.
GATE_PROMPTS: dict[str, GatePrompt] = {
    prompt.name: prompt
    for prompt in (
        GatePrompt("gate-1", "", "术语：", "- ", "", "缺上文？", context_lines=0, line_chars=0),
        GatePrompt("gate-1-context", "", "术语：", "- ", "", "缺上文？", context_lines=3, line_chars=40),
        GatePrompt("gate-rule", _RULE, "术语：", "- ", "问题：", "缺少上文？", context_lines=0, line_chars=0),
    )
}
DEFAULT_GATE_PROMPT = "gate-1"


def gate_prompt(question: Question, glossary: Sequence[str] = (), version: str = DEFAULT_GATE_PROMPT) -> Prompt:
    """The prompt of ``version`` for one question. Raises KeyError for an unknown version."""
    return gate_prompt_of(question.text, [line.text for line in last_lines(question.context, GATE_PROMPTS[version].context_lines)], glossary, version)


def gate_prompt_of(question: str, lines: Sequence[str], glossary: Sequence[str] = (), version: str = DEFAULT_GATE_PROMPT) -> Prompt:
    """As :func:`gate_prompt`, for texts: ``lines`` are earlier messages, oldest first."""
    return GATE_PROMPTS[version].fill(question, lines, glossary)


def last_lines(context: Sequence[ContextLine], count: int) -> list[ContextLine]:
    """The last ``count`` lines, oldest first."""
    return list(context[-count:]) if count else []


def one_line(text: str) -> str:
    """The text without line breaks and with single spaces."""
    return " ".join(text.split())


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters: what a question asks stands at its end, what it is about often at its beginning."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-(limit - 1 - half) :]}"
