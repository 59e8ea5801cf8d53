"""From one back end to the next: real coroutines, a manual clock, and back ends that fail as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from core.errors import BackendError
from core.gates.failover import COOL_DOWN_SECONDS, FAILURES_TO_OPEN, FailoverModel
from core.gates.limits import PromptTooLongError
from core.gates.llama_cpp import LlamaCppModel
from core.gates.packaged import model_path
from core.gates.worker import ModelWorker
from core.ports import Generation, Prompt
from tests.adapters.manual_clock import ManualClock
from tests.core.gates.conformance import LanguageModelConformance

PROMPT = Prompt("", "", "问题")
DOWN = BackendError("server", "cannot be reached (ConnectionRefusedError)")


@dataclass
class Wire:
    """A back end at the end of a wire: fails with ``error`` while that is set, never answers while ``hangs``, answers ``value``."""

    name: str
    adapter: str = ""
    value: float = -1.0
    error: BaseException | None = None
    hangs: bool = False
    judged: list[str] = field(default_factory=list)
    calls: int = 0
    closed: bool = False

    async def _answer(self) -> None:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        await self._answer()
        self.judged += [prompt.text for prompt in prompts]
        return [[self.value for _ in answers] for _ in prompts]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        await self._answer()
        return [[self.value] for _ in continuations]

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        await self._answer()
        return Generation(self.name, (self.value,))

    async def count_tokens(self, text: str) -> int:
        await self._answer()
        return len(text)

    async def close(self) -> None:
        self.closed = True


def chain(*models: Wire, timeout: float = 5.0) -> tuple[FailoverModel, ManualClock]:
    clock = ManualClock()
    return FailoverModel(models, timeout_seconds=timeout, clock=clock), clock


class TestFailoverModel(LanguageModelConformance):
    """The suite, with a dead server before the packaged model."""

    @pytest.fixture
    async def model(self) -> AsyncIterator[FailoverModel]:
        worker = ModelWorker()
        local = await LlamaCppModel.open(model_path("", "gate"), None, worker, context_tokens=512)
        opened = FailoverModel([Wire("server", error=DOWN), local], timeout_seconds=120.0)
        yield opened
        await opened.close()
        worker.close()


@pytest.mark.parametrize(
    "error",
    [DOWN, MemoryError(), ConnectionResetError(104, "Connection reset by peer"), BackendError("transformers", "out of memory"), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
async def test_the_next_one_answers_when_one_fails_and_the_switch_is_one_log_line(error: BaseException) -> None:
    first, second = Wire("server", error=error), Wire("local", adapter="shipped")
    model, _ = chain(first, second)
    with capture_logs() as logs:
        assert (await model.generate(PROMPT, 8)).text == "local"
    assert (model.name, model.adapter, model.failovers) == ("local", "shipped", 1)
    (line,) = [entry for entry in logs if entry["event"] == "model_failover"]
    assert (line["source"], line["target"], line["log_level"]) == ("server", "local", "warning")


async def test_one_that_does_not_answer_in_time_is_left() -> None:
    model, _ = chain(Wire("server", hangs=True), Wire("local"), timeout=0.01)
    assert (await model.generate(PROMPT, 8)).text == "local"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
async def test_garbage_is_not_taken(value: float) -> None:
    model, _ = chain(Wire("server", value=value), Wire("local"))
    assert await model.answer_logprobs([PROMPT], ("yes", "no")) == [[-1.0, -1.0]]
    assert (await model.generate(PROMPT, 8)).text == "local"


async def test_one_that_keeps_failing_is_left_alone_then_tried_once_and_recovers() -> None:
    server = Wire("server", error=DOWN)
    model, clock = chain(server, Wire("local"))
    for _ in range(10):
        await model.generate(PROMPT, 8)
    assert server.calls == FAILURES_TO_OPEN
    assert model.failovers == FAILURES_TO_OPEN
    await clock.advance(COOL_DOWN_SECONDS)
    for _ in range(5):
        await model.generate(PROMPT, 8)
    assert server.calls == FAILURES_TO_OPEN + 1
    await clock.advance(COOL_DOWN_SECONDS)
    server.error = None
    with capture_logs() as logs:
        assert (await model.generate(PROMPT, 8)).text == "server"
    assert [entry["event"] for entry in logs] == ["model_recovered"]
    assert (await model.generate(PROMPT, 8)).text == "server"


async def test_a_half_open_one_is_tried_by_one_call_alone() -> None:
    server = Wire("server", error=DOWN)
    model, clock = chain(server, Wire("local"))
    for _ in range(FAILURES_TO_OPEN):
        await model.generate(PROMPT, 8)
    await clock.advance(COOL_DOWN_SECONDS)
    server.error, server.hangs = None, True
    trying = asyncio.create_task(model.generate(PROMPT, 8))
    await asyncio.sleep(0)
    results = await asyncio.gather(*(model.generate(PROMPT, 8) for _ in range(5)))
    assert {result.text for result in results} == {"local"}
    assert server.calls == FAILURES_TO_OPEN + 1
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    server.hangs = False
    assert (await model.generate(PROMPT, 8)).text == "server"


async def test_a_server_that_names_a_time_is_left_alone_for_that_time() -> None:
    server = Wire("server", error=BackendError("openai", "HTTP 429: too many calls", retry_after=100.0))
    model, clock = chain(server, Wire("local"))
    await model.generate(PROMPT, 8)
    server.error = None
    await clock.advance(99.0)
    assert (await model.generate(PROMPT, 8)).text == "local"
    await clock.advance(1.0)
    assert (await model.generate(PROMPT, 8)).text == "server"


async def test_when_none_answers_the_error_tells_why_and_when_to_try_again() -> None:
    model, clock = chain(Wire("server", error=DOWN), Wire("local", error=BackendError("llama_cpp", "llama_decode failed with code 1")))
    with pytest.raises(BackendError, match=r"none of server, local answers \(server: cannot be reached.*code 1\)"):
        await model.generate(PROMPT, 8)
    for _ in range(FAILURES_TO_OPEN - 1):
        with pytest.raises(BackendError):
            await model.generate(PROMPT, 8)
    await clock.advance(10.0)
    with pytest.raises(BackendError, match="left alone") as caught:
        await model.generate(PROMPT, 8)
    assert caught.value.retry_after == COOL_DOWN_SECONDS - 10.0


async def test_a_prompt_that_is_too_long_says_nothing_about_the_back_end() -> None:
    server = Wire("server", error=PromptTooLongError("server", 900, 512))
    model, _ = chain(server, Wire("local", error=PromptTooLongError("local", 900, 512)))
    for _ in range(FAILURES_TO_OPEN + 1):
        with pytest.raises(PromptTooLongError):
            await model.generate(PROMPT, 8)
    server.error = None
    assert (await model.generate(PROMPT, 8)).text == "server"


async def test_of_200_questions_each_is_judged_once_when_the_server_dies_in_the_middle() -> None:
    server, local = Wire("server"), Wire("local", value=-2.0)
    model, _ = chain(server, local)

    async def ask(number: int) -> list[list[float]]:
        if number == 100:
            server.error = DOWN
        return await model.answer_logprobs([Prompt("", "", f"{number}a"), Prompt("", "", f"{number}b")], ("yes", "no"))

    rows = [await ask(number) for number in range(200)]
    assert len(rows) == 200
    assert sorted(server.judged + local.judged) == sorted(f"{number}{letter}" for number in range(200) for letter in "ab")
    assert not set(server.judged) & set(local.judged)
    assert {row[0] for result in rows[100:] for row in result} == {-2.0}


async def test_closing_closes_all() -> None:
    models = Wire("server"), Wire("local")
    model, _ = chain(*models)
    await model.close()
    assert all(one.closed for one in models)
