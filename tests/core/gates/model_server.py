"""An OpenAI-compatible model server on loopback that answers by rule, or badly as it is told."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Listed = dict[str, float]
CONTEXT_CHARS = 512


def likely(yes: float = 0.6, no: float = 0.3) -> Listed:
    """Log-probabilities of the first token of an answer."""
    return {"yes": math.log(yes), "no": math.log(no), "maybe": math.log(0.01)}


@dataclass
class ModelServer:
    """``paths``: what it offers; ``logprobs``: whether it gives any; ``echoes``: whether it echoes prompts; ``bad``: answers instead of everything else; ``listed``: the
    log-probabilities of the next token, per prompt; ``shown``: those of them that the list of the likeliest tokens holds."""

    url: str = ""
    paths: tuple[str, ...] = ("completions", "chat/completions", "tokenize")
    logprobs: bool = True
    echoes: bool = True
    top_limit: int = 20
    text: str = "怎么把 mmpose 部署到 TX2？"
    listed: Callable[[str], Listed] = lambda prompt: likely()
    shown: Callable[[Listed], Listed] = lambda found: found
    bad: Callable[[web.Request], web.StreamResponse] | None = None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        path = request.path.removeprefix("/v1/").lstrip("/")
        self.requests.append((path, body))
        await asyncio.sleep(0)
        if self.bad is not None:
            return self.bad(request)
        if path == "models":
            return web.json_response({"data": [{"id": "base"}]})
        if path not in self.paths:
            return web.json_response({"error": {"code": "not_found"}}, status=404)
        if path == "tokenize":
            return web.json_response({"count": len(body["prompt"])}) if "prompt" in body else web.json_response({}, status=400)
        prompt = body["prompt"] if path == "completions" else body["messages"][0]["content"]
        top = body.get("logprobs") if path == "completions" else body.get("top_logprobs")
        if top is not None and top > self.top_limit:
            return web.json_response({"error": {"message": "at most 5", "type": "invalid_request_error"}}, status=400)
        if len(prompt) > CONTEXT_CHARS:
            return web.json_response({"error": {"message": "This model's maximum context length is 512 tokens."}}, status=400)
        return web.json_response(self._completion(path, prompt, body))

    def _completion(self, path: str, prompt: str, body: dict[str, Any]) -> dict[str, Any]:
        listed = self.shown(self.listed(prompt))
        text = max(listed, key=lambda token: listed[token]) if body["max_tokens"] == 1 else self.text
        for stop in body.get("stop", []):
            text = text.partition(stop)[0]
        tokens = [text] if body["max_tokens"] == 1 else list(text)
        if path != "completions":
            content = [{"token": token, "logprob": -0.1, "top_logprobs": [{"token": key, "logprob": value} for key, value in listed.items()]} for token in tokens]
            return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": {"content": content} if self.logprobs else None}]}
        tops: list[Listed | None] = [listed for _ in tokens]
        values: list[float | None] = [max(listed.values()) for _ in tokens]
        if body.get("echo") and self.echoes:
            text, tokens = prompt + text, [*prompt, *tokens]
            values = [None, *(self.listed(prompt[:place]).get(prompt[place], -5.0) for place in range(1, len(prompt))), *values]
            tops = [*([None] * len(prompt)), *tops]
        return {"choices": [{"text": text, "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops} if self.logprobs else None}]}


@asynccontextmanager
async def model_server(**settings: Any) -> AsyncIterator[ModelServer]:
    server = ModelServer(**settings)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def plainly(status: int, body: bytes, headers: dict[str, str] | None = None) -> Callable[[web.Request], web.StreamResponse]:
    """Always this answer."""
    return lambda request: web.Response(status=status, body=body, headers=headers)


def endless(piece: bytes) -> Callable[[web.Request], web.StreamResponse]:
    """An answer that never ends."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield piece
            await asyncio.sleep(0)

    return lambda request: web.Response(body=pieces())


def as_json(value: object) -> Callable[[web.Request], web.StreamResponse]:
    return plainly(200, json.dumps(value).encode())
