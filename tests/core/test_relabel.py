"""Judging again: what is chosen, how it is paced, what the report says, and which gate does it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.config import load_config
from core.errors import BackendError, ConfigError
from core.gates.limits import PromptTooLongError
from core.messages import ConversationKey, GateVersion, Question, Verdict
from core.relabel import Pace, Relabeller, open_relabel_models, relabel_config, uses_serving_gate

OLD, NEW = GateVersion("small", "", "v1"), GateVersion("small", "lora", "v2")
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Clock:
    """Time passes by sleeping and by judging."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


class Log:
    """Questions q0, q1, ... with the probability that an older model gave each, None for none."""

    def __init__(self, before: Sequence[float | None], erased: Collection[str] = ()) -> None:
        self.before = {f"q{number}": probability for number, probability in enumerate(before)}
        self.erased = set(erased)
        self.stored: dict[str, Verdict] = {}

    async def not_last_judged_by(self, versions: Collection[GateVersion], since: datetime | None, limit: int) -> list[str]:
        return [key for key in self.before if key not in self.stored or self.stored[key].version not in versions][:limit]

    async def with_verdicts(self, question_ids: Sequence[str]) -> list[tuple[Question, Verdict | None]]:
        here = [key for key in question_ids if key not in self.erased]
        return [(Question(key, ConversationKey("feishu", "g"), "u", f"text {key}", NOW), _verdict(self.before[key], OLD)) for key in here]

    async def append(self, judged: Sequence[tuple[str, Verdict]]) -> list[str]:
        self.stored.update(judged)
        return [key for key, _ in judged]


def _verdict(probability: float | None, version: GateVersion) -> Verdict | None:
    return None if probability is None else Verdict(probability, 0.5, version.model, version.prompt_version, adapter=version.adapter)


class Gate:
    versions = frozenset({NEW})

    def __init__(self, judge: Callable[[str], float], clock: Clock | None = None) -> None:
        self.calls: list[list[str]] = []
        self._judge, self._clock = judge, clock

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.calls.append([question.id for question in questions])
        if self._clock is not None:
            self._clock.seconds += 2.0
        return [Verdict(self._judge(question.id), 0.5, NEW.model, NEW.prompt_version, adapter=NEW.adapter) for question in questions]

    async def close(self) -> None: ...


async def test_the_report_tells_what_flipped_each_way() -> None:
    log = Log([0.1, 0.9, 0.2, 0.8, None])
    report = await Relabeller(Gate(lambda key: 0.9 if key in ("q0", "q3", "q4") else 0.1), log).run(None, 100)
    assert [one.question.id for one in report.to_yes] == ["q0"]
    assert [one.question.id for one in report.to_no] == ["q1"]
    flip = report.to_yes[0]
    assert flip.before is not None
    assert (flip.before.probability, flip.after.probability, flip.after.version) == (0.1, 0.9, NEW)
    assert (report.chosen, report.judged, report.judged_first, report.failed, report.stopped) == (5, 5, 1, 0, "")
    assert report.counts == {(NEW, "lm"): (5, 3)}
    assert set(log.stored) == set(log.before)


async def test_a_second_run_finds_nothing_to_do_and_the_limit_leaves_the_rest_for_it() -> None:
    log, gate = Log([0.1] * 5), Gate(lambda key: 0.1)
    assert (await Relabeller(gate, log).run(None, 3)).judged == 3
    assert (await Relabeller(gate, log).run(None, 3)).judged == 2
    assert (await Relabeller(gate, log).run(None, 3)).judged == 0
    assert sorted(key for call in gate.calls for key in call) == ["q0", "q1", "q2", "q3", "q4"]


async def test_in_a_bot_live_questions_go_first_and_rests_are_longer_than_work() -> None:
    clock = Clock()
    waiting = [0, 3, 2, 1, 0, 0]
    gate = Gate(lambda key: 0.1, clock)
    await Relabeller(gate, Log([0.1] * 3), Pace(together=1, rest=4.0, busy=lambda: bool(waiting.pop(0) if waiting else 0)), clock).run(None, 10)
    assert gate.calls == [["q0"], ["q1"], ["q2"]]
    assert clock.slept == [8.0, 1.0, 1.0, 1.0, 8.0]


async def test_what_was_erased_meanwhile_is_left_alone() -> None:
    log = Log([0.1, 0.1], erased=["q1"])
    report = await Relabeller(Gate(lambda key: 0.9), log).run(None, 10)
    assert (report.judged, report.erased) == (1, 1)
    assert set(log.stored) == {"q0"}


async def test_a_back_end_that_keeps_failing_ends_the_run_and_the_next_one_goes_on() -> None:
    class Failing(Gate):
        async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
            if len(self.calls) > 0 and up[0] is False:
                self.calls.append([])
                raise BackendError("openai", "connection refused")
            return await super().judge(questions)

    up = [False]
    log, gate = Log([0.1] * 100), Failing(lambda key: 0.1)
    report = await Relabeller(gate, log, Pace(together=10)).run(None, 100)
    assert "connection refused" in report.stopped
    assert (report.judged, report.failed, len(gate.calls)) == (10, 30, 4)
    up[0] = True
    assert (await Relabeller(gate, log, Pace(together=10)).run(None, 100)).judged == 90


async def test_a_failure_in_passing_is_counted_and_the_run_goes_on() -> None:
    class Hiccup(Gate):
        async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
            if len(self.calls) == 1 and not hiccups:
                hiccups.append(1)
                raise BackendError("openai", "no answer within 30 s")
            return await super().judge(questions)

    hiccups: list[int] = []
    log = Log([0.1] * 6)
    report = await Relabeller(Hiccup(lambda key: 0.1), log, Pace(together=2)).run(None, 10)
    assert (report.judged, report.failed, report.stopped) == (4, 2, "")


async def test_one_question_that_is_too_long_does_not_cost_the_others_their_verdict() -> None:
    class Short(Gate):
        async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
            if any(question.id == "q2" for question in questions):
                raise PromptTooLongError("llama_cpp", 9000, 1536)
            return await super().judge(questions)

    log = Log([0.1] * 5)
    report = await Relabeller(Short(lambda key: 0.9), log).run(None, 10)
    assert (report.judged, report.failed, report.stopped) == (4, 1, "")
    assert set(log.stored) == {"q0", "q1", "q3", "q4"}


def test_without_keys_of_its_own_the_serving_gate_judges() -> None:
    config = load_config(None, {"DOUJIE_GATE__MODEL": "m.gguf", "DOUJIE_GATE__THRESHOLD": "0.3"})
    assert uses_serving_gate(config)
    assert relabel_config(config).gate == config.gate
    assert relabel_config(config).resolver.backend == "none"


def test_another_adapter_on_the_same_model_and_another_model() -> None:
    serving = {"DOUJIE_GATE__MODEL": "m.gguf", "DOUJIE_GATE__ADAPTER": "a.gguf", "DOUJIE_GATE__THRESHOLD": "0.3", "DOUJIE_GATE__BACKEND": "llama_cpp", "DOUJIE_GATE__THREADS": "3"}
    gate = relabel_config(load_config(None, serving, relabel={"adapter": "b.gguf"})).gate
    assert (gate.model, gate.adapter, gate.threshold, gate.backend) == ("m.gguf", "b.gguf", None, "llama_cpp")
    gate = relabel_config(load_config(None, serving, relabel={"base_url": "http://127.0.0.1:8000/v1"})).gate
    assert (gate.model, gate.adapter, gate.threshold, gate.backend, gate.base_url, gate.threads) == ("m.gguf", "none", None, "openai", "http://127.0.0.1:8000/v1", 3)
    gate = relabel_config(load_config(None, serving, relabel={"model": "other.gguf"})).gate
    assert (gate.model, gate.adapter, gate.backend) == ("other.gguf", "none", "auto"), "the adapter that serves fits the model that serves"
    assert not uses_serving_gate(load_config(None, {}, relabel={"prompt": "gate-rule"}))


def test_no_model_at_all_is_said() -> None:
    with pytest.raises(ConfigError, match=r"\[relabel\] backend.*needs a model"):
        relabel_config(load_config(None, {"DOUJIE_GATE__BACKEND": "none"}))


async def test_a_missing_adapter_is_the_fault_of_the_section_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_relabel_models(load_config(None, {}, relabel={"adapter": str(tmp_path / "none.gguf"), "backend": "llama_cpp"}))
    assert (caught.value.section, caught.value.key) == ("relabel", "adapter")
