"""Back end ``transformers``: a safetensors folder, hub model or GGUF file, with or without a peft adapter, on GPU or CPU."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from core.errors import BackendError
from core.gates.transformers_engine import BACKEND, TransformersEngine
from core.gates.worker import ModelWorker
from core.ports import Generation, Prompt

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    prompts: Sequence[Prompt]
    answers: Sequence[str]
    result: list[list[float]] = field(default_factory=list)
    error: Exception | None = None
    given_up: bool = False


class TransformersModel:
    """Implements :class:`core.ports.LanguageModel`. Make it with :meth:`open`. Questions that wait while the model works are read together in its next pass."""

    def __init__(self, engine: TransformersEngine, worker: ModelWorker, name: str, adapter: str) -> None:
        self.name, self.adapter = name, adapter
        self._engine, self._worker = engine, worker
        self._waiting: deque[_Waiting] = deque()
        self._closed = False
        self._fixed_tokens = lru_cache(maxsize=64)(self._tokenize_fixed)
        self._end = engine.end_tokens()

    @classmethod
    async def open(
        cls, model: str, adapter: Path | None, worker: ModelWorker, *, context_tokens: int = 1536, device: str = "auto", threads: int = 0, section: str = "gate"
    ) -> TransformersModel:
        """Load in the worker thread. Raises ConfigError for what does not fit, BackendError for too little memory, ImportError without torch or transformers."""
        engine = await worker.run(TransformersEngine, model, adapter, context_tokens, device, threads, section)
        return cls(engine, worker, Path(model).name, adapter.name if adapter else "")

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda, cuda:0, mps ..."""
        return self._engine.device

    def _tokenize_fixed(self, fixed: str, context: str) -> tuple[int, ...]:
        return (*self._engine.start_tokens(), *self._engine.tokenize(fixed), *(self._engine.tokenize(context) if context else ()))

    def _tokens(self, prompt: Prompt) -> list[int]:
        return [*self._fixed_tokens(prompt.fixed, prompt.context), *self._engine.tokenize(prompt.tail), *self._end]

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        mine = _Waiting(prompts, answers)
        self._waiting.append(mine)
        try:
            await self._run(self._read_waiting)
        except asyncio.CancelledError:
            mine.given_up = True  # while the model hung; read all the same, it would hold up who asks next
            raise
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _read_waiting(self) -> None:
        """Answer all that wait. The first of several waiting calls answers for all, the others find nothing left to do."""
        calls = [call for call in (self._waiting.popleft() for _ in range(len(self._waiting))) if not call.given_up]
        if not calls:
            return
        try:
            self._read(calls)
        except Exception as error:  # whatever torch raises goes to who waits for this call
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:  # one bad prompt must not fail its neighbours
                try:
                    self._read([call])
                except Exception as own:  # as above
                    call.error = own

    def _read(self, calls: Sequence[_Waiting]) -> None:
        rows = [self._tokens(prompt) for call in calls for prompt in call.prompts]
        wanted = [first for call in calls for first in [[self._engine.tokenize(answer)[0] for answer in call.answers]] for _ in call.prompts]
        values = iter(self._engine.next_logprobs(rows, wanted))
        for call in calls:
            call.result = [next(values) for _ in call.prompts]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        return await self._run(lambda: self._engine.score(self._tokens(prompt), [self._engine.tokenize(text) for text in continuations]))

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        text, logprobs = await self._run(lambda: self._engine.generate(self._tokens(prompt), max_tokens, stop))
        return Generation(text, tuple(logprobs))

    async def count_tokens(self, text: str) -> int:
        return len(await self._run(lambda: self._engine.tokenize(text)))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._worker.run(self._engine.close)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise BackendError(BACKEND, "is closed")
        return await self._worker.run(work)
