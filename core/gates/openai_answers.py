"""What the answers of OpenAI-compatible servers say, checked: text, and the log-probabilities of tokens in the forms that servers give them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import BackendError
from core.gates.openai_http import BACKEND

#: Natural-log units below the last listed token: what an answer is given that is not in the list.
FLOOR_STEP = 1.0
#: Share of the probability that listed answers must hold together, where one is not listed, to be taken as they are: the other one can then be no likelier than the rest.
SETTLED_SHARE = 0.5
#: Servers write minus infinity in several ways, for example as -9999.
_LEAST = -1000.0


class NotEchoedError(BackendError):
    """The server does not tell the log-probabilities of a given text."""

    def __init__(self, problem: str) -> None:
        super().__init__(BACKEND, problem)


class ThoughtsError(BackendError):
    """The model has thought and not answered."""

    def __init__(self) -> None:
        super().__init__(BACKEND, "the model spent all its tokens on thoughts; turn thinking off at the server, or set a higher max_new_tokens")


@dataclass(frozen=True, slots=True)
class Pieces:
    """One completion: its text, its tokens with their natural-log probabilities (None: not given), and for each token the likeliest ones; all but the text empty where
    the server gives none.
    """

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float | None, ...] = ()
    tops: tuple[Mapping[str, float], ...] = ()

    def until(self, stop: str, *, skip_thoughts: bool = False) -> tuple[str, tuple[float, ...]]:
        """The text up to ``stop``, and the log-probabilities of its tokens. ``skip_thoughts``: without a chat model's thoughts and empty lines before it."""
        text, begin = self.text, 0
        if skip_thoughts:
            thoughts, mark, rest = text.rpartition("</think>")
            begin = len(thoughts) + len(mark)
            if not mark and text.lstrip().startswith("<think>"):
                raise ThoughtsError
            rest = rest if mark else text
            begin += len(rest) - len(rest.lstrip())
        end = text.find(stop, begin) if stop else -1
        end = len(text) if end < 0 else end
        logprobs, position = [], 0
        for token, logprob in zip(self.tokens, self.logprobs, strict=False):
            if begin <= position < end and logprob is not None:
                logprobs.append(logprob)
            position += len(token)
        return text[begin:end], tuple(logprobs)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The likeliest first tokens of an answer. ``exact``: tokens are compared letter by letter, as after a plain prompt; else case and surrounding space do not count, as
    in a chat.
    """

    listed: Mapping[str, float]
    exact: bool


def first_answer(first: FirstToken, answers: Sequence[str]) -> list[float] | None:
    """The log-probability of the first token of each answer; None when none is listed."""
    floor = min(first.listed.values(), default=0.0) - FLOOR_STEP
    found = [_logprob(first, answer) for answer in answers]
    return None if all(value is None for value in found) else [floor if value is None else value for value in found]


def settles(first: FirstToken, answers: Sequence[str]) -> bool:
    """Whether the list tells enough of ``answers``: it holds all, or those that it holds are likely."""
    found = [value for answer in answers if (value := _logprob(first, answer)) is not None]
    return len(found) == len(answers) or sum(math.exp(value) for value in found) >= SETTLED_SHARE


def _logprob(first: FirstToken, answer: str) -> float | None:
    if first.exact:
        starts = [token for token in first.listed if token and answer.startswith(token)]
        return first.listed[max(starts, key=len)] if starts else None
    wanted = answer.strip().lower()
    values = [value for token, value in first.listed.items() if (word := token.strip().lower()) and wanted.startswith(word) and (word == wanted or len(word) > 1)]
    return math.log(sum(math.exp(value) for value in values)) if values else None


def completion_pieces(answered: Any) -> Pieces:
    """A text completion. Raises BackendError for another form."""
    choice = _choice(answered)
    text = choice.get("text")
    if not isinstance(text, str):
        raise BackendError(BACKEND, "the JSON has no choices[0].text")
    logs = choice.get("logprobs")
    if not isinstance(logs, dict):
        return Pieces(text)
    if isinstance(logs.get("content"), list):  # llama-server gives the form of chat completions here too
        return _chat_logprobs(text, logs["content"])
    tokens, values, tops = logs.get("tokens"), logs.get("token_logprobs"), logs.get("top_logprobs") or ()
    if not isinstance(tokens, list) or not isinstance(values, list) or not isinstance(tops, list | tuple) or len(tokens) != len(values):
        raise BackendError(BACKEND, "choices[0].logprobs has another form than that of completions")
    return Pieces(text, tuple(map(str, tokens)), tuple(map(_optional, values)), tuple(_top(top) for top in tops))


def chat_pieces(answered: Any) -> Pieces:
    """A chat completion. Raises BackendError for another form."""
    choice = _choice(answered)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if text is None and isinstance(message, dict) and message.get("reasoning_content"):
        raise ThoughtsError
    if not isinstance(text, str):
        raise BackendError(BACKEND, "the JSON has no choices[0].message.content")
    logs = choice.get("logprobs")
    content = logs.get("content") if isinstance(logs, dict) else None
    return _chat_logprobs(text, content) if isinstance(content, list) else Pieces(text)


def tail_scores(pieces: Pieces, whole: str, continuation: str) -> list[float]:
    """The log-probabilities of the last tokens of an echoed prompt, those of ``continuation``. Raises NotEchoedError where the server does not echo them, or shifts them."""
    if not pieces.tokens or not pieces.text.startswith(whole):
        raise NotEchoedError("the server does not echo log-probabilities of the prompt (vLLM and llama_cpp.server do)")
    *tokens, _ = pieces.tokens
    if not pieces.tops or pieces.logprobs[-1] is None or pieces.logprobs[-1] < max(pieces.tops[-1].values(), default=_LEAST) - 1e-3:
        # The generated token was chosen as the likeliest: listed as less, the rows belong to other tokens.
        raise NotEchoedError("the echoed log-probabilities belong to other tokens")
    begin, length = len(tokens), 0
    while begin and length < len(continuation):
        begin -= 1
        length += len(tokens[begin])
    if "".join(tokens[begin:]) != continuation:
        raise NotEchoedError("the server's tokens do not line up with the end of the prompt")
    values = pieces.logprobs[begin:-1]
    if any(value is None for value in values):
        raise NotEchoedError("the server leaves out log-probabilities")
    return [value for value in values if value is not None]


def _choice(answered: Any) -> dict[str, Any]:
    try:
        choice = answered["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise BackendError(BACKEND, "the JSON has no choices[0]") from None
    if not isinstance(choice, dict):
        raise BackendError(BACKEND, "choices[0] is no object")
    return choice


def _chat_logprobs(text: str, content: Sequence[Any]) -> Pieces:
    try:
        tokens = tuple(str(item["token"]) for item in content)
        values = tuple(_optional(item["logprob"]) for item in content)
        tops = tuple(_listed(item.get("top_logprobs") or ()) for item in content)
    except (KeyError, TypeError, AttributeError):
        raise BackendError(BACKEND, "choices[0].logprobs.content has another form than that of chat completions") from None
    return Pieces(text, tokens, values, tops if all(tops) else ())


def _listed(listed: Sequence[Any]) -> dict[str, float]:
    return {str(item["token"]): _number(item["logprob"]) for item in listed}


def _top(top: Any) -> dict[str, float]:
    if top is None:
        return {}
    if not isinstance(top, dict):
        raise BackendError(BACKEND, "choices[0].logprobs.top_logprobs holds no objects")
    return {str(token): _number(value) for token, value in top.items()}


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    """A log-probability: finite and not above 0, but for rounding. Raises BackendError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 1e-3:
        raise BackendError(BACKEND, "garbage: a log-probability is no number of 0 or less")
    return min(0.0, float(max(value, _LEAST)))
