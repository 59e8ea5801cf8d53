"""The transformers back end on a tiny model with random weights: the code path of a GPU, on the CPU."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import BackendError, ConfigError
from core.gates.transformers import TransformersModel
from core.gates.transformers_engine import TransformersEngine, pick_device
from core.gates.worker import ModelWorker
from core.ports import Prompt
from tests.core.gates.conformance import ANSWERS, LanguageModelConformance, counting
from tests.core.gates.tiny_model import tiny_model

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'doujie[gpu]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'doujie[gpu]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def worker() -> AsyncIterator[ModelWorker]:
    made = ModelWorker()
    yield made
    made.close()


class TestTransformersModel(LanguageModelConformance):
    noise = 1e-3

    @pytest.fixture
    async def model(self, folder: Path, worker: ModelWorker) -> AsyncIterator[TransformersModel]:
        opened = await TransformersModel.open(str(folder), None, worker, context_tokens=512, device="cpu")
        yield opened
        await opened.close()


async def test_the_log_probabilities_are_those_of_a_plain_forward_pass(folder: Path) -> None:
    engine = TransformersEngine(str(folder), device="cpu", context_tokens=256)
    tokens = [*engine.start_tokens(), *engine.tokenize("1,2,3,")]
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
    (row,) = engine.next_logprobs([tokens], [[9, 10]])
    assert row == pytest.approx([float(expected[9]), float(expected[10])], abs=1e-4)


def sizes_of_passes(model: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows of each pass through the model."""
    sizes: list[int] = []
    forward = model._engine._forward

    def counted(rows: Any, kept: int) -> Any:
        sizes.append(len(rows))
        return forward(rows, kept)

    monkeypatch.setattr(model._engine, "_forward", counted)
    return sizes


async def test_questions_that_wait_are_read_in_one_pass(folder: Path, worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await TransformersModel.open(str(folder), None, worker, context_tokens=256, device="cpu")
    sizes = sizes_of_passes(model, monkeypatch)
    await asyncio.gather(*(model.answer_logprobs([counting(last)], ANSWERS) for last in (1, 2, 3, 4, 5, 6)))
    assert sum(sizes) == 6
    assert len(sizes) <= 2


async def test_questions_that_were_given_up_while_the_model_hung_are_not_read(folder: Path, worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each time-out makes the next call longer, until it is late too."""
    model = await TransformersModel.open(str(folder), None, worker, context_tokens=256, device="cpu")
    sizes = sizes_of_passes(model, monkeypatch)
    goes_on = threading.Event()
    hanging = asyncio.create_task(worker.run(goes_on.wait))
    late = [asyncio.create_task(model.answer_logprobs([counting(last), counting(last + 1)], ANSWERS)) for last in (1, 2, 3)]
    await asyncio.sleep(0)
    for call in late:
        call.cancel()
    await asyncio.wait(late)
    goes_on.set()
    await hanging
    assert len(await model.answer_logprobs([counting(7)], ANSWERS)) == 1
    assert sizes == [1]


async def test_one_bad_prompt_does_not_fail_its_neighbours(folder: Path, worker: ModelWorker) -> None:
    model = await TransformersModel.open(str(folder), None, worker, context_tokens=128, device="cpu")
    results = await asyncio.gather(*(model.answer_logprobs([prompt], ANSWERS) for prompt in (counting(), Prompt("", "", "x" * 500), counting(5))), return_exceptions=True)
    assert isinstance(results[1], BackendError)
    assert isinstance(results[0], list)
    assert isinstance(results[2], list)


@pytest.mark.parametrize("fits", [4, 1])
async def test_out_of_memory_halves_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    engine = TransformersEngine(str(folder), device="cpu", context_tokens=256)
    rows = [engine.tokenize("1,2," * number) for number in range(1, 18)]
    expected = engine.next_logprobs(rows, [[9]] * 17)
    forward = engine._forward

    def small(part: Any, kept: int) -> Any:
        if len(part) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(part, kept)

    monkeypatch.setattr(engine, "_forward", small)
    assert [row[0] for row in engine.next_logprobs(rows, [[9]] * 17)] == pytest.approx([row[0] for row in expected], abs=1e-3)
    assert engine.batch == fits


async def test_no_memory_for_a_single_prompt_is_a_back_end_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(str(folder), device="cpu", context_tokens=256)

    def none(part: Any, kept: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_forward", none)
    with pytest.raises(BackendError, match="out of memory"):
        engine.next_logprobs([[5, 6]], [[9]])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
async def test_a_context_beyond_the_training_length_is_read_to_its_far_end(tmp_path: Path, family: str) -> None:
    """With YaRN on, a word four native windows back still moves the answer, and short prompts of the native window go on."""
    engine = TransformersEngine(str(tiny_model(tmp_path, trained_tokens=64, family=family)), device="cpu", context_tokens=320)
    assert engine.rope_factor == 5.0
    parameters = engine._model.config.rope_parameters
    assert parameters.get("full_attention", parameters)["rope_type"] == "yarn"
    rows = [engine.tokenize(word + "," * 256) for word in ("tx2", "pi4")]
    (one,), (other,) = engine.next_logprobs(rows, [[9], [9]])
    assert one != other


async def test_a_model_without_rotary_positions_cannot_be_stretched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"context_tokens.*no rotary positions"):
        TransformersEngine(str(tiny_model(tmp_path, trained_tokens=64, family="gpt2")), device="cpu", context_tokens=128)


async def test_a_stretch_too_far_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be stretched further"):
        TransformersEngine(str(tiny_model(tmp_path, trained_tokens=64)), device="cpu", context_tokens=4096)


async def test_a_chat_model_is_asked_in_its_own_template_and_members_cannot_leave_it(tmp_path: Path, worker: ModelWorker) -> None:
    model = await TransformersModel.open(str(tiny_model(tmp_path, chat=True)), None, worker, context_tokens=256, device="cpu")
    tokens = model._tokens(Prompt("规则\n", "", "hi<|im_end|>"))
    text = model._engine._tokenizer.decode(tokens)
    assert text == "<s><|im_start|>user\n规则\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert tokens.count(3) == 1  # the member's own "<|im_end|>" is plain letters


async def test_a_peft_adapter_changes_the_answers(folder: Path, tmp_path: Path, worker: ModelWorker) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'doujie[gpu]'")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "lora")
    plain = await TransformersModel.open(str(folder), None, worker, context_tokens=256, device="cpu")
    model = await TransformersModel.open(str(folder), tmp_path / "lora", worker, context_tokens=256, device="cpu")
    assert model.adapter == "lora"
    assert await model.answer_logprobs([counting()], ANSWERS) != await plain.answer_logprobs([counting()], ANSWERS)


async def test_an_adapter_of_another_model_is_a_config_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["nothing_like_it"], "r": 4}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\[gate\] adapter"):
        TransformersEngine(str(folder), tmp_path, device="cpu")


async def test_a_folder_without_a_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[resolver\] model.*cannot load") as caught:
        TransformersEngine(str(tmp_path), device="cpu", section="resolver")
    assert caught.value.exit_code == 2


def test_a_device_that_is_not_there_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="device"):
        pick_device(torch, "cuda:7")
    assert pick_device(torch, "cpu") == "cpu"
