"""Back end ``llama_cpp``: a GGUF model, with or without a GGUF LoRA adapter, on the CPU (or what llama.cpp was built for)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ParamSpec, TypeVar

from core.errors import BackendError
from core.gates.chat import PLAIN, ChatFrame
from core.gates.limits import SEQUENCES
from core.gates.llama_engine import LlamaEngine
from core.gates.worker import ModelWorker
from core.ports import Generation, Prompt

P = ParamSpec("P")
T = TypeVar("T")


class LlamaCppModel:
    """Implements :class:`core.ports.LanguageModel`. Make it with :meth:`open`."""

    def __init__(self, engine: LlamaEngine, worker: ModelWorker, name: str, adapter: str, frame: ChatFrame = PLAIN) -> None:
        self.name, self.adapter = name, adapter
        self._engine, self._worker = engine, worker
        self._closed = False
        self._fixed_tokens = lru_cache(maxsize=64)(self._tokenize_fixed)
        self._frame = frame
        self._end = engine.tokenize(frame.after, special=True) if frame.after else []

    @classmethod
    async def open(cls, path: Path, adapter: Path | None, worker: ModelWorker, *, context_tokens: int = 1536, threads: int = 0, sequences: int = SEQUENCES) -> LlamaCppModel:
        """Load in the worker thread; the numbers are those of :class:`core.gates.llama_engine.LlamaEngine`.

        :raises ConfigError: for a file that does not fit. :raises BackendError: for too little memory.
        """
        engine = await worker.run(LlamaEngine, path, adapter, context_tokens, threads, sequences)
        frame = engine.chat_frame(path.stem) if adapter is None else PLAIN
        return cls(engine, worker, path.stem, adapter.parent.name + "/" + adapter.name if adapter else "", frame)

    def _tokenize_fixed(self, fixed: str, context: str) -> tuple[int, ...]:
        parts = (fixed, context) if context else (fixed,)
        return (*self._engine.tokenize(self._frame.before, start=True, special=True), *(token for part in parts for token in self._engine.tokenize(part)))

    def _tokens(self, prompt: Prompt) -> list[int]:
        return [*self._fixed_tokens(prompt.fixed, prompt.context), *self._engine.tokenize(prompt.tail), *self._end]

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        def work() -> list[list[float]]:
            first = [self._engine.tokenize(answer)[0] for answer in answers]
            shared = {(prompt.fixed, prompt.context) for prompt in prompts}
            if len(prompts) > 1 and len(shared) == 1 and prompts[0].context:  # branches of one conversation: one prefix, one batch
                tails = [[*self._engine.tokenize(prompt.tail), *self._end] for prompt in prompts]
                return self._engine.branch_logprobs(self._fixed_tokens(*shared.pop()), tails, first)
            return [[float(value) for value in self._engine.next_logprobs(self._tokens(prompt))[first]] for prompt in prompts]

        return await self._run(work)

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        return await self._run(lambda: self._engine.score(self._tokens(prompt), [self._engine.tokenize(text) for text in continuations]))

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        text, logprobs = await self._run(lambda: self._engine.generate(self._tokens(prompt), max_tokens, stop.encode()))
        return Generation(text.decode("utf-8", "replace"), tuple(logprobs))

    async def count_tokens(self, text: str) -> int:
        return len(await self._run(lambda: self._engine.tokenize(text)))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._worker.run(self._engine.close)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise BackendError("llama_cpp", "is closed")
        return await self._worker.run(work)
