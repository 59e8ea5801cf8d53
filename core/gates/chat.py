"""What a chat model's own template puts before and after the words of a user, so that a plain prompt can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

import structlog

log = structlog.get_logger(__name__)

_MARK = "doujie-user-words"


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """``before`` and ``after`` hold the template's special tokens and are tokenised with them; what members wrote stands between and is always plain text."""

    before: str = ""
    after: str = ""


#: A base model, or one with an adapter that was trained on plain prompts.
PLAIN = ChatFrame()


def frame_of(render: Callable[[str], str], model: str) -> ChatFrame:
    """The frame around the one user message that ``render`` is given. :data:`PLAIN`, with a log line, when the template does not render or does not hold the message
    exactly once.
    """
    try:
        before, mark, after = render(_MARK).partition(_MARK)
    except Exception as error:  # a template is a program of the model's author and may raise anything
        log.warning("chat_template_unusable", model=model, error=type(error).__name__, effect="the model is asked by the plain prompt")
        return PLAIN
    if not mark or _MARK in after:
        log.warning("chat_template_unusable", model=model, error="the message is not in the text once", effect="the model is asked by the plain prompt")
        return PLAIN
    return ChatFrame(before, after)


def render_template(template: str, user: str, bos_token: str = "", eos_token: str = "") -> str:
    """One user message and the opening of the answer in a Hugging Face chat template, rendered in a sandbox: a model file must not run code. Models that can think aloud
    are told not to.
    """
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _today
    return environment.from_string(template).render(
        messages=[{"role": "user", "content": user}], add_generation_prompt=True, enable_thinking=False, tools=None, bos_token=bos_token, eos_token=eos_token
    )


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _today(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
