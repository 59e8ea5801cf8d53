"""From one back end to the next when it fails: each call is answered by exactly one; one that keeps failing is left alone for a while and then tried again.

A chain of one, for a server that is named without a stand-in, hands nothing over: its calls fail at once while the server is left alone, instead of each waiting for the
time-out, and whoever called asks again later.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from core.clock import Clock, SystemClock
from core.errors import BackendError
from core.gates.limits import PromptTooLongError
from core.messages import GateVersion, Question, Resolution, Verdict
from core.ports import Gate, Generation, LanguageModel, Prompt, Resolver, versions_of

log = structlog.get_logger(__name__)

#: Failures in a row after which a back end is left alone, and for how many seconds.
FAILURES_TO_OPEN = 3
COOL_DOWN_SECONDS = 30.0


class CircuitBreaker:
    """Closed: calls pass. Open, after ``failures`` in a row or a ``retry_after`` of the server: none does. Half open, when the time is over: one call tries."""

    def __init__(self, clock: Clock, failures: int = FAILURES_TO_OPEN, cool_down: float = COOL_DOWN_SECONDS) -> None:
        """:param cool_down: seconds."""
        self._clock, self._limit, self._cool_down = clock, failures, cool_down
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def waits(self) -> float:
        """Seconds until the next call may pass; 0 when one may now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock.monotonic())

    def enter(self) -> bool:
        """Whether a call may pass now; after True, exactly one of :meth:`succeeded`, :meth:`failed` and :meth:`left` must follow."""
        if self._open_until is None:
            return True
        if self._trying or self.waits > 0:
            return False
        self._trying = True
        return True

    def succeeded(self) -> bool:
        """Close. True when it was open: the back end has recovered."""
        recovered = self._open_until is not None
        self._failures, self._open_until, self._trying = 0, None, False
        return recovered

    def failed(self, retry_after: float | None = None) -> bool:
        """Count a failure. A half-open breaker opens again at once, and so does one whose server names a time. True when it was closed and is open now."""
        was_open = self._open_until is not None
        self._failures += 1
        self._trying = False
        if retry_after is not None or self._open_until is not None or self._failures >= self._limit:
            self._open_until = self._clock.monotonic() + max(self._cool_down if retry_after is None else retry_after, 0.0)
        return not was_open and self._open_until is not None

    def left(self) -> None:
        """The call ended without telling anything about the back end."""
        self._trying = False


class Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=Closable)
R = TypeVar("R")


@dataclass(slots=True)
class _Link(Generic[T]):
    name: str
    part: T
    breaker: CircuitBreaker


class Chain(Generic[T]):
    """Parts of one kind in order of preference. ``failovers`` counts the calls that one part handed over to the next after a failure of its own."""

    def __init__(self, stage: str, parts: Sequence[tuple[str, T]], timeout_seconds: float, clock: Clock | None = None) -> None:
        """:param stage: "gate" or "resolver", for the log. :param timeout_seconds: for one call of one part."""
        if not parts:
            raise ValueError("a chain needs at least one back end")
        clock = clock or SystemClock()
        self._links = [_Link(name, part, CircuitBreaker(clock)) for name, part in parts]
        self._stage, self._timeout = stage, timeout_seconds
        self._last = self._links[0]
        self.failovers = 0

    @property
    def current(self) -> T:
        """The part that answered last; the first before any call."""
        return self._last.part

    async def call(self, work: Callable[[T], Awaitable[R]], check: Callable[[R], str] = lambda result: "") -> R:
        """The result of the first part that gives one. ``check`` tells what is wrong with a result, "" when nothing is.

        :raises BackendError: when none does; ``retry_after`` is the time until one may be tried again.
        """
        problems: list[BackendError] = []
        failed: str | None = None
        for link in self._links:
            if not link.breaker.enter():
                continue
            if failed is not None:
                self.failovers += 1
                log.warning("model_failover", stage=self._stage, source=failed, target=link.name, problem=problems[-1].problem)
            try:
                result = await self._attempt(link, work, check)
            except PromptTooLongError as error:
                link.breaker.left()
                problems.append(error)
            except BackendError as error:
                if link.breaker.failed(error.retry_after):
                    log.warning("model_left_alone", stage=self._stage, backend=link.name, seconds=round(link.breaker.waits, 1), problem=error.problem)
                problems.append(error)
            except BaseException:
                link.breaker.left()
                raise
            else:
                if link.breaker.succeeded():
                    log.info("model_recovered", stage=self._stage, backend=link.name)
                self._last = link
                return result
            failed = link.name
        raise self._nobody(problems)

    async def _attempt(self, link: _Link[T], work: Callable[[T], Awaitable[R]], check: Callable[[R], str]) -> R:
        try:
            async with asyncio.timeout(self._timeout):
                result = await work(link.part)
        except TimeoutError:
            raise BackendError(link.name, f"no answer within {self._timeout:g} s") from None
        except MemoryError:
            raise BackendError(link.name, "out of memory") from None
        except OSError as error:
            raise BackendError(link.name, f"{type(error).__name__}: {error.strerror or 'no details'}") from None
        if problem := check(result):
            raise BackendError(link.name, problem)
        return result

    def _nobody(self, problems: Sequence[BackendError]) -> BackendError:
        if problems and all(isinstance(problem, PromptTooLongError) for problem in problems):
            return problems[-1]
        retry_after = min(link.breaker.waits for link in self._links) or None
        if len(self._links) == 1:
            return BackendError(self._links[0].name, problems[0].problem if problems else "failed lately and is left alone for a while", retry_after)
        names = ", ".join(link.name for link in self._links)
        why = "; ".join(f"{problem.backend}: {problem.problem}" for problem in problems) or "each failed lately and is left alone for a while"
        return BackendError("failover", f"none of {names} answers ({why})", retry_after)

    async def close(self) -> None:
        """Close all parts, also when one of them fails to."""
        results = await asyncio.gather(*(link.part.close() for link in self._links), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


class FailoverModel:
    """Implements :class:`core.ports.LanguageModel` over several. ``name`` and ``adapter`` are those of the model that answered last."""

    def __init__(self, models: Sequence[LanguageModel], *, timeout_seconds: float = 30.0, clock: Clock | None = None, stage: str = "model") -> None:
        self._chain = Chain(stage, [(model.name, model) for model in models], timeout_seconds, clock)
        self.name, self.adapter = models[0].name, models[0].adapter

    @property
    def failovers(self) -> int:
        """Calls that one model handed over to the next."""
        return self._chain.failovers

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        def check(rows: list[list[float]]) -> str:
            if len(rows) != len(prompts) or any(len(row) != len(answers) for row in rows):
                return "the answers do not match the questions"
            return "" if all(math.isfinite(value) for row in rows for value in row) else "garbage: a log-probability is no finite number"

        return await self._call(lambda model: model.answer_logprobs(prompts, answers), check)

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        def check(rows: list[list[float]]) -> str:
            if len(rows) != len(continuations):
                return "the scores do not match the continuations"
            return "" if all(math.isfinite(value) for row in rows for value in row) else "garbage: a log-probability is no finite number"

        return await self._call(lambda model: model.score(prompt, continuations), check)

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        def check(generation: Generation) -> str:
            return "" if all(math.isfinite(value) for value in generation.logprobs) else "garbage: a log-probability is no finite number"

        return await self._call(lambda model: model.generate(prompt, max_tokens, stop), check)

    async def count_tokens(self, text: str) -> int:
        return await self._call(lambda model: model.count_tokens(text), lambda count: "")

    async def _call(self, work: Callable[[LanguageModel], Awaitable[R]], check: Callable[[R], str]) -> R:
        result = await self._chain.call(work, check)
        self.name, self.adapter = self._chain.current.name, self._chain.current.adapter
        return result

    async def close(self) -> None:
        await self._chain.close()


class FailoverGate:
    """Implements :class:`core.ports.Gate` over gates that each have a model, a prompt and a calibration of their own: a threshold of one model means nothing for another."""

    def __init__(self, gates: Sequence[tuple[str, Gate]], *, timeout_seconds: float = 30.0, clock: Clock | None = None) -> None:
        self._chain = Chain("gate", gates, timeout_seconds, clock)
        self._preferred = gates[0][1]

    @property
    def versions(self) -> frozenset[GateVersion]:
        """Those of the preferred gate: what another judged in its stead may be judged again."""
        return versions_of(self._preferred)

    @property
    def failovers(self) -> int:
        return self._chain.failovers

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        def check(verdicts: list[Verdict]) -> str:
            if len(verdicts) != len(questions):
                return "the verdicts do not match the questions"
            return "" if all(math.isfinite(verdict.probability) for verdict in verdicts) else "garbage: a probability is no finite number"

        return await self._chain.call(lambda gate: gate.judge(questions), check)

    async def close(self) -> None:
        await self._chain.close()


class FailoverResolver:
    """Implements :class:`core.ports.Resolver`: a remote model that writes freely, and what ships when it fails."""

    def __init__(self, resolvers: Sequence[tuple[str, Resolver]], *, timeout_seconds: float = 60.0, clock: Clock | None = None) -> None:
        self._chain = Chain("resolver", resolvers, timeout_seconds, clock)

    @property
    def failovers(self) -> int:
        return self._chain.failovers

    async def resolve(self, question: Question) -> Resolution:
        return await self._chain.call(lambda resolver: resolver.resolve(question))

    async def close(self) -> None:
        await self._chain.close()
