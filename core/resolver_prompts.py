"""The prompts of the resolver, by version name. A shipped adapter names the version it was trained with; changing a text means a new name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from core.errors import ConfigError
from core.messages import ContextLine, Question
from core.ports import Prompt

_INSTRUCTION: Final = (
    "下面是一段群聊，最后一条是待改写的问题。把问题里的代词和省略的内容换成前文里它所指的原词，"
    "使问题脱离上下文也能看懂；其余的字一个不动，不解释，不回答，只输出改写后的一行。"
    "前文里没有它所指的内容时，原样输出问题。\n"
    "Rewrite the last question of this group chat so that it can be understood alone: put the words it refers to in the place of "
    "pronouns and omissions, change nothing else, output one line.\n"
)
_QUOTED: Final = "问题引用了这一条 The question quotes this: "
#: Of a line of a dialogue; longer ones are cut.
_MOST_CHARS: Final = 300


def flat(text: str) -> str:
    """A message as one line, since a line is one message in every prompt."""
    return " ".join(text.split())


def _rewrite_v1(question: Question, lines: tuple[ContextLine, ...]) -> Prompt:
    glossary = f"术语 terms: {'、'.join(question.glossary)}\n" if question.glossary else ""
    context = "".join(f"{flat(line.sender)}: {flat(line.text)}\n" for line in lines)
    return Prompt(fixed=_INSTRUCTION + glossary + "\n", context=context, tail=f"{flat(question.sender)}: {flat(question.text)}\n=>")


def _rewrite_v2(question: Question, lines: tuple[ContextLine, ...]) -> Prompt:
    """As rewrite-v1; a message that the question quotes is shown once more right before it."""
    prompt = _rewrite_v1(question, lines)
    quoted = "".join(f"{_QUOTED}{flat(line.sender)}: {flat(line.text)}\n" for line in lines if line.is_reply_target)
    return replace(prompt, tail=quoted + prompt.tail)


def _dialogue_1(question: Question, lines: tuple[ContextLine, ...]) -> Prompt:
    """A dialogue of two: no instruction, since the adapter has learnt the task, and each token costs time."""
    context = "".join(f"{'Q' if line.sender == question.sender else 'A'}: {flat(line.text)[:_MOST_CHARS]}\n" for line in lines)
    return Prompt(fixed="", context=context, tail=f"Q: {flat(question.text)[:_MOST_CHARS]}\n=>")


REWRITE_PROMPTS: Final[dict[str, Callable[[Question, tuple[ContextLine, ...]], Prompt]]] = {"rewrite-v1": _rewrite_v1, "rewrite-v2": _rewrite_v2, "dialogue-1": _dialogue_1}
DEFAULT_REWRITE_PROMPT: Final = "rewrite-v2"
#: Those of :mod:`core.dialogue`.
DIALOGUE_PROMPTS: Final = frozenset({"dialogue-1"})


def lines_shown(context: Sequence[ContextLine], most: int) -> tuple[ContextLine, ...]:
    """At most ``most`` lines, oldest first: those that the question quotes, which are always shown, and the last of the others."""
    quoted = [index for index, line in enumerate(context) if line.is_reply_target]
    others = [index for index, line in enumerate(context) if not line.is_reply_target]
    return tuple(context[index] for index in sorted((*quoted, *others[max(0, len(context) - most) :])))


def rewrite_prompt(version: str, question: Question, lines: tuple[ContextLine, ...]) -> Prompt:
    """Prompt for a free rewrite. Raises ConfigError for a version that does not exist."""
    try:
        build = REWRITE_PROMPTS[version]
    except KeyError:
        raise ConfigError("resolver", "prompt", version, "no such prompt version", f"Use one of {', '.join(sorted(REWRITE_PROMPTS))}.") from None
    return build(question, lines)
