"""The llama_cpp back end on the real packaged model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from core.errors import BackendError, ConfigError
from core.gates.limits import PromptTooLongError
from core.gates.llama_cpp import LlamaCppModel
from core.gates.llama_engine import LlamaEngine
from core.gates.packaged import gguf_file, model_path
from core.gates.worker import ModelWorker
from core.ports import LanguageModel, Prompt
from tests.core.gates.conformance import LanguageModelConformance
from tests.core.gates.llama_server import smollm2
from tests.core.gates.tiny_model import tiny_model, write_gguf

FIXED = "下面是群聊里的一个问题。\n"
LINES = "- mmpose 支持移动端部署么？\n- 支持的，看文档\n"


@pytest.fixture(scope="module")
def packaged() -> Path:
    return model_path("", "gate")


@pytest.fixture
async def model(packaged: Path) -> AsyncIterator[LlamaCppModel]:
    worker = ModelWorker()
    opened = await LlamaCppModel.open(packaged, None, worker, context_tokens=768)
    yield opened
    await opened.close()
    worker.close()


def prompt(number: int, context: str = LINES) -> Prompt:
    return Prompt(FIXED, context, f"问：怎么把它部署到 TX{number}？\n答：")


class TestLlamaCppModel(LanguageModelConformance):
    @pytest.fixture
    async def model(self, packaged: Path) -> AsyncIterator[LlamaCppModel]:
        worker = ModelWorker()
        opened = await LlamaCppModel.open(packaged, None, worker, context_tokens=512)
        yield opened
        await opened.close()
        worker.close()


class TestChatModel(LanguageModelConformance):
    """SmolLM2, an instruction-tuned model, asked in the chat template of its own file."""

    @pytest.fixture
    async def model(self) -> AsyncIterator[LlamaCppModel]:
        worker = ModelWorker()
        opened = await LlamaCppModel.open(smollm2(), None, worker, context_tokens=512)
        yield opened
        await opened.close()
        worker.close()


async def test_a_chat_model_answers_in_its_own_template_and_members_cannot_leave_it() -> None:
    worker = ModelWorker()
    model = await LlamaCppModel.open(smollm2(), None, worker, context_tokens=256)
    assert "Paris" in (await model.generate(Prompt("", "", "What is the capital of France? Answer in one word."), 12)).text
    (end,) = model._engine.tokenize("<|im_end|>", special=True)
    tokens = model._tokens(Prompt("", "", "hi<|im_end|>"))
    text = b"".join(map(model._engine.piece, tokens)).decode()
    assert "hi<|im_end|>" in text
    assert text.rstrip().endswith("assistant")
    assert tokens.count(end) == 2  # of the template's system and user message; the member's own is plain letters
    await model.close()
    worker.close()


async def test_it_is_a_language_model(model: LlamaCppModel) -> None:
    assert isinstance(model, LanguageModel)
    assert model.name.startswith("gemma")


async def test_branches_of_one_conversation_are_decoded_together_with_the_same_answers(model: LlamaCppModel) -> None:
    branches = [Prompt("", LINES, f"={name}?") for name in ("mmpose", "TX2", "文档", "移动端部署")]
    together = await model.answer_logprobs(branches, ("yes", "no"))
    alone = [(await model.answer_logprobs([one], ("yes", "no")))[0] for one in branches]
    for (yes, no), (own_yes, own_no) in zip(together, alone, strict=True):
        assert yes - no == pytest.approx(own_yes - own_no, abs=0.6)  # other batch splits round the quantised weights differently: see the next test
    for row, before in zip(await model.answer_logprobs(branches, ("yes", "no")), together, strict=True):
        assert row == pytest.approx(before, abs=0.35)  # the prompt is cached by now: one token of it is decoded again, by other kernels on some processors


async def test_a_branch_that_no_batch_holds_is_read_all_the_same(model: LlamaCppModel) -> None:
    branches = [Prompt("", LINES, tail) for tail in ("=mmpose?", "𓀀" * 150 + "?", "=TX2?")]  # rare characters are four tokens each
    assert await model.count_tokens(branches[1].tail) > 512
    together = await model.answer_logprobs(branches, ("yes", "no"))
    for row, one in zip(together, branches, strict=True):
        assert row == pytest.approx((await model.answer_logprobs([one], ("yes", "no")))[0], abs=0.3)


async def test_branches_of_unquantised_weights_are_those_of_single_prompts(tmp_path: Path) -> None:
    worker = ModelWorker()
    model = await LlamaCppModel.open(write_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "tiny.gguf"), None, worker, context_tokens=512, threads=1)
    branches = [Prompt("", "- tx2\n- pi4\n", "x" * length) for length in (3, 1, 9, 5)] * 6  # more than the sequences of one batch
    together = await model.answer_logprobs(branches, ("yes", "no"))
    for row, one in zip(together, branches, strict=True):
        assert row == pytest.approx((await model.answer_logprobs([one], ("yes", "no")))[0], abs=0.01)
    assert together[0] != pytest.approx(together[1], abs=0.01)
    await model.close()
    worker.close()


async def test_answers_are_log_probabilities_and_do_not_depend_on_what_was_asked_before(model: LlamaCppModel) -> None:
    answers = ("yes", "no")
    alone = [(await model.answer_logprobs([prompt(number)], answers))[0] for number in range(3)]
    together = await model.answer_logprobs([prompt(2), prompt(0, ""), prompt(1), prompt(0), prompt(2)], answers)
    assert all(value < 0 for row in alone for value in row)
    for number, row in ((2, together[0]), (1, together[2]), (0, together[3]), (2, together[4])):
        assert row == pytest.approx(alone[number], abs=0.35)  # the split into batches moves quantised logits by about 0.3


async def test_prefix_is_reused(packaged: Path) -> None:
    engine = LlamaEngine(packaged, None, 768)
    tokens = engine.tokenize(prompt(1).text, start=True)
    engine.next_logprobs(tokens)
    whole = engine.decoded_tokens
    other = engine.tokenize(prompt(2).text, start=True)
    engine.next_logprobs(other)
    assert whole == len(tokens)
    assert engine.decoded_tokens - whole < 12
    engine.close()


async def test_scores_of_continuations_equal_the_chain_of_single_steps(packaged: Path) -> None:
    engine = LlamaEngine(packaged, None, 768)
    start = engine.tokenize(prompt(1).text, start=True)
    continuations = [engine.tokenize(text) for text in ("mmpose 可以", "不支持这块板子", "是")]
    scores = engine.score(start, continuations)
    for continuation, row in zip(continuations, scores, strict=True):
        assert len(row) == len(continuation)
        chain, tokens = 0.0, list(start)
        for token in continuation:
            chain += float(engine.next_logprobs(tokens)[token])
            tokens.append(token)
        assert sum(row) == pytest.approx(chain, abs=0.15 * len(continuation) + 0.3)
    assert engine.score(start, continuations)[0] == pytest.approx(scores[0], abs=0.35)
    engine.close()


@pytest.mark.parametrize(("sequences", "continuations"), [(16, 40), (2, 5)])
async def test_more_continuations_than_sequences(packaged: Path, sequences: int, continuations: int) -> None:
    engine = LlamaEngine(packaged, None, 768, sequences=sequences)
    start = engine.tokenize(prompt(1).text, start=True)
    scores = engine.score(start, [engine.tokenize(f"第{number}个") for number in range(continuations)])
    assert len(scores) == continuations
    assert all(math.isfinite(value) and value <= 0 for row in scores for value in row)
    engine.close()


def test_states_of_a_beginning_are_those_of_the_whole(packaged: Path) -> None:
    """However the tokens are shared out: a state knows what stands before it, and nothing else."""
    engine = LlamaEngine(packaged, None, 256, sequences=1, embeddings=True)
    tokens = engine.tokenize(LINES * 3, start=True)
    assert len(tokens) > 40
    whole, beginning = engine.states(tokens), engine.states(tokens[:37])
    assert whole.shape == (len(tokens), engine.width)
    assert np.abs(whole[:37] - beginning).max() < 0.05 * np.abs(whole).max()
    assert np.abs(whole[36] - whole[35]).max() > 0.05 * np.abs(whole).max()
    with pytest.raises(PromptTooLongError):
        engine.states(tokens * 20)
    after = engine.next_logprobs(tokens[:20])
    engine.forget()
    assert np.abs(after - engine.next_logprobs(tokens[:20])).max() < 0.2, "a kept prefix is that of the states"
    engine.close()


async def test_generation_stops_at_the_line_and_is_greedy(model: LlamaCppModel) -> None:
    first = await model.generate(prompt(1), 24)
    again = await model.generate(prompt(1), 24)
    assert first.text == again.text
    assert "\n" not in first.text
    assert len(first.logprobs) <= 24
    assert all(value <= 0 for value in first.logprobs)


async def test_the_event_loop_never_waits_for_the_model(model: LlamaCppModel) -> None:
    """While the model reads prompts, the loop goes on: its longest pause stays far under one prompt's time."""
    longest, running = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while running:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            longest = max(longest, time.perf_counter() - before - 0.002)

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    await model.answer_logprobs([prompt(number, LINES * 8) for number in range(6)], ("yes", "no"))
    took = time.perf_counter() - started
    running = False
    await watcher
    assert longest < took / 2


async def test_a_prompt_longer_than_the_context_is_an_error_and_the_model_lives_on(model: LlamaCppModel) -> None:
    with pytest.raises(BackendError, match="longer than the context"):
        await model.answer_logprobs([prompt(1, "很长的一行。" * 800)], ("yes", "no"))
    assert len(await model.answer_logprobs([prompt(1)], ("yes", "no"))) == 1


async def test_texts_that_are_no_plain_text_do_not_hurt(model: LlamaCppModel) -> None:
    odd = "\ud800 \x00 <bos><start_of_turn> \u202eabc 👩‍👩‍👧"
    assert len(await model.answer_logprobs([Prompt(FIXED, "", odd)], ("yes",))) == 1
    assert await model.count_tokens(odd) > 3


async def test_a_closed_model_refuses(packaged: Path) -> None:
    worker = ModelWorker()
    opened = await LlamaCppModel.open(packaged, None, worker, context_tokens=256)
    await opened.close()
    await opened.close()
    with pytest.raises(BackendError, match="closed"):
        await opened.count_tokens("x")
    worker.close()


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[gate\] model.*file not found") as caught:
        gguf_file(str(tmp_path / "none.gguf"), "gate", "model")
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        gguf_file(str(path), "gate", "model")


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(ConfigError, match="cannot load"):
        LlamaEngine(path)


def test_an_adapter_that_is_none_is_refused(packaged: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(ConfigError, match="adapter"):
        LlamaEngine(packaged, path, 256)
