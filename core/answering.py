"""Answer services: an OpenAI-compatible chat endpoint, or HuixiangDou's own server.

Both fail with :class:`core.errors.BackendError`, whose text names status and kind of failure and never what was asked, answered or sent as a secret.
"""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from core.config import AnswerSection
from core.errors import BackendError, ConfigError
from core.retry_after import seconds
from core.text import clean_text

MAX_BODY_BYTES = 1 << 20
MAX_ANSWER_CHARS = 2000
DEFAULT_SYSTEM_PROMPT = "你是群聊里的技术助手。请用提问所用的语言简洁、准确地回答；不确定时直说不知道，不要编造。"


class AnswerService(Protocol):
    """Answers questions that stand alone."""

    async def answer(self, question: str) -> str | None:
        """At most :data:`MAX_ANSWER_CHARS` characters; None when the service has no answer. Raises BackendError."""

    async def close(self) -> None:
        """Close connections. Idempotent."""


def make_answer_service(section: AnswerSection) -> AnswerService | None:
    """The service that ``[answer]`` describes, None where no address is given. Raises ConfigError."""
    if not section.base_url:
        return None
    if section.kind == "huixiangdou":
        return HuixiangDou(section.base_url, section.timeout_seconds, section.api_key.get_secret_value())
    if not section.model:
        raise ConfigError("answer", "model", "", "an OpenAI-compatible service needs the name of a model", "Set it to one of the names that GET /v1/models of the service lists.")
    return OpenAiChat(section.base_url, section.model, section.api_key.get_secret_value(), section.system_prompt or DEFAULT_SYSTEM_PROMPT, section.timeout_seconds)


class _JsonPost:
    """POST of JSON that answers JSON, with bounds on time and size; redirects are not followed, for they could carry a key elsewhere."""

    def __init__(self, name: str, url: str, timeout: float, api_key: str) -> None:
        self.name, self._url, self._timeout = name, url, timeout
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, body: dict[str, Any]) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout), headers=self._headers)
        try:
            async with self._session.post(self._url, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise BackendError(self.name, f"HTTP {response.status}", seconds(response.headers.get("Retry-After")))
                content = bytearray()
                async for piece in response.content.iter_chunked(1 << 16):
                    content += piece
                    if len(content) > MAX_BODY_BYTES:
                        raise BackendError(self.name, f"the answer is longer than {MAX_BODY_BYTES} bytes")
        except TimeoutError:
            raise BackendError(self.name, f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise BackendError(self.name, f"cannot be reached ({type(error).__name__})") from None
        try:
            return json.loads(bytes(content))
        except (ValueError, RecursionError):
            raise BackendError(self.name, "the answer is not JSON") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class OpenAiChat:
    """``POST /v1/chat/completions`` of any OpenAI-compatible server."""

    def __init__(self, base_url: str, model: str, api_key: str = "", system_prompt: str = DEFAULT_SYSTEM_PROMPT, timeout: float = 60.0) -> None:
        """:param base_url: with or without ``/v1``. :param timeout: seconds for the whole call."""
        self._post = _JsonPost("answer openai", chat_url(base_url), timeout, api_key)
        self._model, self._system_prompt = model, system_prompt

    async def answer(self, question: str) -> str | None:
        """As :meth:`AnswerService.answer`."""
        messages = [{"role": "system", "content": self._system_prompt}, {"role": "user", "content": question}]
        answered = await self._post({"model": self._model, "messages": messages, "stream": False})
        try:
            content = answered["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise BackendError(self._post.name, "the JSON has no choices[0].message.content") from None
        if content is not None and not isinstance(content, str):
            raise BackendError(self._post.name, "choices[0].message.content is not a text")
        return _presentable(_without_thoughts(content or ""))

    async def close(self) -> None:
        await self._post.close()


class HuixiangDou:
    """``POST /huixiangdou_inference`` of HuixiangDou's own server."""

    def __init__(self, base_url: str, timeout: float = 60.0, api_key: str = "") -> None:
        """:param timeout: seconds for the whole call. :param api_key: asked for by a proxy before the server, which itself asks for none."""
        url = base_url.rstrip("/")
        self._post = _JsonPost("answer huixiangdou", url if url.endswith("/huixiangdou_inference") else f"{url}/huixiangdou_inference", timeout, api_key)

    async def answer(self, question: str) -> str | None:
        """As :meth:`AnswerService.answer`. The server answers with a JSON string in one of its modes, and with its steps in the other: the last step with a response counts."""
        answered = await self._post({"text": question, "image": ""})
        if isinstance(answered, str):
            return _presentable(answered)
        steps = answered.get("step") if isinstance(answered, dict) else None
        if not isinstance(steps, list):
            raise BackendError(self._post.name, "the JSON is neither a text nor an object with a list named step")
        responses = [step["response"] for step in steps if isinstance(step, dict) and isinstance(step.get("response"), str) and step["response"].strip()]
        return _presentable(responses[-1]) if responses else None

    async def close(self) -> None:
        await self._post.close()


def chat_url(base_url: str) -> str:
    """The chat endpoint under ``base_url``, which may end with the host, with ``/v1``, or with the whole path."""
    url = base_url.rstrip("/")
    if url.endswith("/chat/completions"):
        return url
    return f"{url}/chat/completions" if urlsplit(url).path else f"{url}/v1/chat/completions"


def _without_thoughts(text: str) -> str:
    """Reasoning models put their thoughts before the answer, and may run out of tokens before it."""
    _, mark, rest = text.rpartition("</think>")
    return "" if not mark and text.lstrip().startswith("<think>") else rest


def _presentable(text: str) -> str | None:
    text = clean_text(text).strip()
    if not text:
        return None
    return text if len(text) <= MAX_ANSWER_CHARS else text[: MAX_ANSWER_CHARS - 1].rstrip() + "…"
