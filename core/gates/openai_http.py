"""JSON over HTTP to a model server that may be slow, wrong, hostile or gone: bounds on time, size and number of calls, and one plain line for each way to fail.

No message of this module holds a key, a question or anything that the server wrote, except the code of its error.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp

from core.errors import BackendError
from core.gates.limits import PromptTooLongError
from core.retry_after import seconds

MAX_BODY_BYTES = 8 << 20
BACKEND = "openai"
_PIECE = 1 << 16
#: How vLLM, llama-server, llama_cpp.server and OpenAI say that a prompt does not fit.
_TOO_LONG = re.compile(rb"(maximum|exceeds?|available)[\w ]{0,20}context|context_(length|size)|exceed_context", re.IGNORECASE)


class HttpStatusError(BackendError):
    """The server answered with another status than 200."""

    def __init__(self, status: int, problem: str, retry_after: float | None = None) -> None:
        self.status = status
        super().__init__(BACKEND, problem, retry_after)


class JsonClient:
    """Calls under one root address. Redirects are not followed, for they could carry a key elsewhere."""

    def __init__(self, api_key: str = "", *, timeout_seconds: float = 30.0, concurrency: int = 8, key_hint: str = "api_key") -> None:
        """:param timeout_seconds: for one call, from its start to the last byte. :param key_hint: where the admin sets the key."""
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout, self._key_hint = timeout_seconds, key_hint
        self._slots = asyncio.Semaphore(concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def get(self, url: str) -> Any:
        """The JSON that ``url`` gives. Raises BackendError."""
        return await self._call("GET", url, None)

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON that answers ``body``. Raises BackendError."""
        return await self._call("POST", url, body)

    async def _call(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        if self._closed:
            raise BackendError(BACKEND, "is closed")
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    content = await self._fetch(method, url, body)
            except TimeoutError:
                raise BackendError(BACKEND, f"no complete answer within {self._timeout:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise BackendError(BACKEND, f"cannot be reached ({type(error).__name__})") from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            kind = "HTML, not JSON: is base_url the address of the API?" if content.lstrip()[:1] == b"<" else "not JSON"
            raise BackendError(BACKEND, f"the answer is {kind}") from None

    async def _fetch(self, method: str, url: str, body: dict[str, Any] | None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), headers=self._headers)
        async with self._session.request(method, url, json=body, allow_redirects=False) as response:
            content = bytearray()
            async for piece in response.content.iter_chunked(_PIECE):
                content += piece
                if len(content) > MAX_BODY_BYTES:
                    raise BackendError(BACKEND, f"the answer is longer than {MAX_BODY_BYTES >> 20} MiB")
            if response.status != 200:
                raise self._refusal(response, bytes(content))
            return bytes(content)

    def _refusal(self, response: aiohttp.ClientResponse, content: bytes) -> BackendError:
        status, retry_after = response.status, seconds(response.headers.get("Retry-After"))
        if status in (401, 403):
            return HttpStatusError(status, f"HTTP {status}: the server refuses the key; set {self._key_hint}")
        if status == 429:
            return HttpStatusError(status, "HTTP 429: too many calls", retry_after)
        if status == 404:
            return HttpStatusError(status, "HTTP 404: no such model or path; check model and base_url (with its version part, such as /v1)")
        if status in (400, 413, 422) and _TOO_LONG.search(content):
            return PromptTooLongError(BACKEND)
        return HttpStatusError(status, f"HTTP {status}{_complaint(content)}", retry_after)

    async def close(self) -> None:
        """Close connections. Idempotent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None


def _complaint(content: bytes) -> str:
    """The machine-readable kind of an OpenAI-style error; never its message, which may quote the request."""
    try:
        error = json.loads(content).get("error")
        kind = error.get("code") or error.get("type")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return f": {kind[:60]}" if isinstance(kind, str) and kind.replace("_", "").isalnum() and kind.isascii() else ""
