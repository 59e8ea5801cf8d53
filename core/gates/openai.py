"""Back end ``openai``: any OpenAI-compatible server, by completions (plain prompts: vLLM, llama-server, llama_cpp.server) or by chat completions (hosted chat models)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from core.errors import BackendError
from core.gates.openai_answers import FirstToken, NotEchoedError, Pieces, ThoughtsError, chat_pieces, completion_pieces, first_answer, settles, tail_scores
from core.gates.openai_http import BACKEND, HttpStatusError, JsonClient
from core.ports import Generation, Prompt

Style = Literal["completions", "chat"]

#: Likeliest tokens asked for: vLLM's default limit, and what hosted chat services give at most; servers that refuse it are asked for OpenAI's old limit.
TOP_TOKENS = (20, 5)
#: Statuses by which servers say that they have no such path, or not with these parameters.
_NOT_OFFERED = frozenset({400, 404, 405, 422, 500, 501})
_PROBE = Prompt("", "", "1 + 1 =")


class OpenAiModel:
    """Implements :class:`core.ports.LanguageModel`. Make it with :meth:`open`."""

    def __init__(self, client: JsonClient, base_url: str, model: str, style: Style, adapter: str = "") -> None:
        """:param base_url: with its version part, without a path after it. :param adapter: for the record; a server knows an adapter as a model name."""
        self.name, self.adapter, self.style = model, adapter, style
        self._client, self._base = client, base_url
        self._top = TOP_TOKENS[0]
        self._counter: tuple[str, str, str] | None = None
        self._unlisted: bool | None = None
        self.gives_logprobs = True

    @classmethod
    async def open(cls, base_url: str, model: str, client: JsonClient, adapter: str = "") -> OpenAiModel:
        """Find out which model there is (the first listed where ``model`` is empty) and how it can be asked: by completions with log-probabilities, else by chat.

        A ``base_url`` that ends in ``/chat/completions`` or ``/completions`` settles the latter. Closes ``client`` and raises BackendError when the server does not answer.
        """
        try:
            base, style = split_url(base_url)
            name = adapter or model or await _first_model(client, base)
            if style is not None:
                opened = cls(client, base, name, style, adapter)
                await opened.probe()
                return opened
            return await cls._find_style(client, base, name, adapter)
        except BaseException:
            await client.close()
            raise

    @classmethod
    async def _find_style(cls, client: JsonClient, base: str, name: str, adapter: str) -> OpenAiModel:
        plain = cls(client, base, name, "completions", adapter)
        try:
            await plain.probe()
        except HttpStatusError as error:
            if error.status not in _NOT_OFFERED:
                raise
        else:
            if plain.gives_logprobs:
                return plain
        chat = cls(client, base, name, "chat", adapter)
        await chat.probe()
        return chat

    async def probe(self) -> None:
        """One call for one token, two where the server refuses to be asked for log-probabilities; sets ``gives_logprobs``. Raises BackendError."""
        try:
            self.gives_logprobs = bool((await self._complete(_PROBE, 1, None, self._top)).tops)
        except ThoughtsError:
            self.gives_logprobs = False  # its first token is none of an answer
        except HttpStatusError as error:
            if error.status not in (400, 422):
                raise
            await self._complete(_PROBE, 1, None, 0)
            self.gives_logprobs = False

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """As the port. Answers that are not among the listed tokens, which happens with adapters whose loss compared the answers alone, are asked for by echo, two calls more.

        Where the server does not echo, one that is not listed counts as less likely than the last that is; when none is listed, the model does not answer in the asked form:
        BackendError.
        """
        return list(await _gather(*(self._answer(prompt, answers) for prompt in prompts)))

    async def _answer(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        if self._unlisted:
            return await self._echoed(prompt, answers)
        pieces = await self._complete(prompt, 1, None, self._top)
        if not pieces.tops:
            raise BackendError(BACKEND, f"the server gives no log-probabilities by {self.style}, which a gate needs; choose a server that does, such as vLLM or llama-server")
        first = FirstToken(pieces.tops[0], exact=self.style == "completions")
        found = first_answer(first, answers)
        if self._unlisted is None and self.style == "completions" and not settles(first, answers):
            return await self._by_echo_or(found, prompt, answers, len(pieces.tops[0]))
        return found if found is not None else _unasked(len(pieces.tops[0]))

    async def _by_echo_or(self, found: list[float] | None, prompt: Prompt, answers: Sequence[str], listed: int) -> list[float]:
        """The exact values where the server echoes, and then for all later prompts too; else ``found``."""
        try:
            exact = await self._echoed(prompt, answers)
        except (NotEchoedError, HttpStatusError) as error:
            if isinstance(error, HttpStatusError) and error.status not in _NOT_OFFERED:
                raise
            self._unlisted = False
            return found if found is not None else _unasked(listed)
        self._unlisted = True
        return exact

    async def _echoed(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        return [tokens[0] for tokens in await self.score(prompt, answers)]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        """As the port, by echoed log-probabilities of the prompt. BackendError where the server has none: chat completions, llama-server, most hosted services."""
        if self.style != "completions":
            raise BackendError(BACKEND, "chat completions give no log-probabilities of given texts")
        return list(await _gather(*(self._score(prompt.text, text) for text in continuations)))

    async def _score(self, start: str, continuation: str) -> list[float]:
        body = {"model": self.name, "prompt": start + continuation, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1, "stream": False}
        pieces = completion_pieces(await self._client.post(f"{self._base}/completions", body))
        return tail_scores(pieces, start + continuation, continuation)

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        """As the port. ``logprobs`` is empty where the server gives none."""
        pieces = await self._complete(prompt, max_tokens, stop, 1 if self.gives_logprobs else 0)
        text, logprobs = pieces.until(stop, skip_thoughts=self.style == "chat")
        return Generation(text, logprobs)

    async def _complete(self, prompt: Prompt, max_tokens: int, stop: str | None, top: int) -> Pieces:
        try:
            return await self._post(prompt, max_tokens, stop, top)
        except HttpStatusError as error:
            if error.status not in (400, 422) or top != TOP_TOKENS[0]:
                raise
        pieces = await self._post(prompt, max_tokens, stop, TOP_TOKENS[1])
        self._top = TOP_TOKENS[1]
        return pieces

    async def _post(self, prompt: Prompt, max_tokens: int, stop: str | None, top: int) -> Pieces:
        body: dict[str, Any] = {"model": self.name, "max_tokens": max_tokens, "temperature": 0, "stream": False}
        if self.style == "completions":
            body["prompt"] = prompt.text
            if top:
                body["logprobs"] = top
            if stop is not None:
                body["stop"] = [stop]
            return completion_pieces(await self._client.post(f"{self._base}/completions", body))
        # No stop: a chat model may begin with an empty line or with thoughts, and would be cut before its answer.
        body["messages"] = [{"role": "user", "content": prompt.text}]
        if top:
            body.update(logprobs=True, top_logprobs=top)
        return chat_pieces(await self._client.post(f"{self._base}/chat/completions", body))

    async def count_tokens(self, text: str) -> int:
        """By the server's own tokeniser where it offers one (vLLM, llama-server, llama_cpp.server); BackendError where it does not."""
        if not text:
            return 0
        root = self._base.rsplit("/v1", 1)[0]
        known = [(f"{root}/extras/tokenize/count", "input", "count"), (f"{root}/tokenize", "prompt", "count"), (f"{root}/tokenize", "content", "tokens")]
        ways = [self._counter] if self._counter else known
        for way in ways:
            url, key, result = way
            body: dict[str, Any] = {"model": self.name, key: text}
            if key == "prompt":
                body["add_special_tokens"] = False
            try:
                answered = await self._client.post(url, body)
            except HttpStatusError as error:
                if error.status not in _NOT_OFFERED:
                    raise
                continue
            value = answered.get(result) if isinstance(answered, dict) else None
            if isinstance(value, int) or (isinstance(value, list) and value):
                self._counter = way
                return value if isinstance(value, int) else len(value)
        raise BackendError(BACKEND, "the server offers no tokeniser")

    async def close(self) -> None:
        await self._client.close()


def split_url(base_url: str) -> tuple[str, Style | None]:
    """The root of the API and the way of asking that the address names, None where it names none."""
    url = base_url.rstrip("/")
    if url.endswith("/chat/completions"):
        return url.removesuffix("/chat/completions"), "chat"
    if url.endswith("/completions"):
        return url.removesuffix("/completions"), "completions"
    return url, None


def _unasked(listed: int) -> NoReturn:
    raise BackendError(BACKEND, f"none of the answers is among the {listed} likeliest tokens: the model does not answer in the asked form")


async def _first_model(client: JsonClient, base: str) -> str:
    listed = await client.get(f"{base}/models")
    try:
        name = listed["data"][0]["id"]
    except (KeyError, IndexError, TypeError):
        raise BackendError(BACKEND, "the server lists no model; set model to the name that it serves") from None
    if not isinstance(name, str) or not name:
        raise BackendError(BACKEND, "the server lists a model without a name")
    return name


async def _gather(*calls: Any) -> list[list[float]]:
    """All results, or the first error after the other calls were cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]
