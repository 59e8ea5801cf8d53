"""The gate: the shipped head and adapter on the real packaged model, and what happens when a part is missing or fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from core.config import Config, GateSection, ResolverSection
from core.errors import BackendError
from core.gates.cascade import CascadeGate
from core.gates.factory import SHIPPED, Models, open_models
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration, HeadWeights, expected_calibration_error
from core.messages import ConversationKey, Question
from core.ports import Gate, Generation, Prompt

NEEDS = ("它支持么", "那这个怎么装啊", "为啥", "上面那个要多少显存？", "does it support int8?", "第二种会变慢不")
ALONE = (
    "有人试过 ncnn 在骁龙 8 gen2 上开 vulkan 的吗",
    "请问 mmdeploy 怎么转 TensorRT 的动态 shape 模型？",
    "大佬们有没有好用的标注工具推荐",
    "How do I install vLLM on Ubuntu 24.04 without root?",
)


def ask(text: str) -> Question:
    return Question(id=text, conversation=ConversationKey("test", "g"), sender="a", text=text, asked_at=datetime(2026, 3, 2, tzinfo=UTC))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models() -> AsyncIterator[Models]:
    opened = await open_models(Config(resolver=ResolverSection(backend="none")))
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(models: Models) -> Gate:
    assert models.gate is not None
    return models.gate


@pytest.mark.asyncio(loop_scope="module")
async def test_the_shipped_gate_tells_questions_apart_that_nobody_doubts(gate: Gate) -> None:
    verdicts = await gate.judge([ask(text) for text in (*NEEDS, *ALONE)])
    assert [verdict.needs_resolution for verdict in verdicts] == [True] * len(NEEDS) + [False] * len(ALONE)
    assert all(0.0 <= verdict.probability <= 1.0 and verdict.latency_ms > 0 for verdict in verdicts)
    assert {verdict.stage for verdict in verdicts} <= {"encoder", "lm"}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_head_settles_some_and_the_language_model_the_rest(gate: Gate) -> None:
    unsure = "那 vllm 那边开了 chunked prefill 之后首 token 会不会更慢"
    verdicts = await gate.judge([ask(text) for text in (*NEEDS, *ALONE, unsure, "多少合适", "用什么框架跑的 首 token 多久？")])
    stages = [verdict.stage for verdict in verdicts]
    assert stages.count("encoder") >= len(stages) // 2
    for verdict in verdicts:
        assert (verdict.prompt_version == "") == (verdict.stage == "encoder")


@pytest.mark.asyncio(loop_scope="module")
async def test_without_the_encoder_the_language_model_judges_all() -> None:
    models = await open_models(Config(gate=GateSection(encoder=False), resolver=ResolverSection(backend="none")))
    assert models.gate is not None
    verdicts = await models.gate.judge([ask(text) for text in (NEEDS[0], ALONE[0])])
    assert [verdict.stage for verdict in verdicts] == ["lm", "lm"]
    assert [verdict.needs_resolution for verdict in verdicts] == [True, False]
    await models.close()


class BrokenModel:
    name, adapter = "broken", ""

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        raise BackendError("broken", "no memory")

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        raise BackendError("broken", "no memory")

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        raise BackendError("broken", "no memory")

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None: ...


async def test_when_the_language_model_fails_the_head_judges_alone() -> None:
    worker = ModelWorker()
    calibration = GateCalibration.load(SHIPPED / "gate" / "calibration.json")
    head = EncoderHead.load(SHIPPED / "gate" / "head.npz")
    unsure = replace(calibration, sure_low=0.0, sure_high=1.0)
    gate = CascadeGate(BrokenModel(), head, unsure, worker)
    verdicts = await gate.judge([ask(text) for text in (NEEDS[0], ALONE[0])])
    assert [(verdict.stage, verdict.needs_resolution) for verdict in verdicts] == [("encoder", True), ("encoder", False)]
    alone = CascadeGate(BrokenModel(), None, None, worker)
    with pytest.raises(BackendError):
        await alone.judge([ask(NEEDS[0])])
    worker.close()


def test_shipped_parts_belong_together() -> None:
    calibration = GateCalibration.load(SHIPPED / "gate" / "calibration.json")
    weights = HeadWeights.load(SHIPPED / "gate" / "head.npz")
    assert calibration.head_version == weights.version
    assert 0.0 < calibration.sure_low < calibration.threshold < calibration.sure_high < 1.0


def test_expected_calibration_error_is_zero_for_honest_probabilities() -> None:
    assert expected_calibration_error([0.25] * 4, [True, False, False, False]) == pytest.approx(0.0)
    assert expected_calibration_error([0.9] * 4, [False] * 4) == pytest.approx(0.9)
