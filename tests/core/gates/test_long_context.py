"""Contexts beyond the length that a model was trained with: what stands far back is still used, by both local back ends alike, or there is a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.gates.limits import LONGEST_STRETCH, rope_factor
from core.gates.llama_engine import LlamaEngine
from core.gates.packaged import model_path
from tests.core.gates.tiny_model import tiny_model, with_context_length, write_gguf

NATIVE = 128
FILLER = "今天群里在聊显卡和机箱风扇的价格，没有别的事。\n"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model, as if it had been trained with so few tokens."""
    return with_context_length(model_path("", "gate"), tmp_path_factory.mktemp("short") / "short.gguf", NATIVE)


@pytest.mark.model
def test_an_antecedent_three_native_windows_back_is_still_used(short: Path) -> None:
    """Which of two names stood there, more than 3 x 128 tokens back, decides which one is said again."""
    engine = LlamaEngine(short, None, 5 * NATIVE)
    assert engine.rope_factor == 5.0
    names = ("mmpose", "ncnn")
    continuations = [engine.tokenize(f" {name}") for name in names]
    margins = []
    for named in names:
        start = engine.tokenize(f"小王装的软件是 {named}\n", start=True)
        tokens = [*start, *engine.tokenize(FILLER * 40)[: 3 * NATIVE + 16], *engine.tokenize("\n小王装的软件是")]
        one, other = engine.score(tokens, continuations)
        margins.append(sum(one) - sum(other))
    assert margins[0] > margins[1] + 1.0
    engine.close()


@pytest.mark.parametrize("factor", [1, 4])
def test_both_local_back_ends_stretch_alike(tmp_path: Path, factor: int) -> None:
    """The same weights, as safetensors and as GGUF, give the same probabilities four native windows on: the YaRN settings of the two libraries mean the same."""
    from core.gates.transformers_engine import TransformersEngine

    folder = tiny_model(tmp_path / "model", trained_tokens=64)
    reference = TransformersEngine(str(folder), device="cpu", context_tokens=64 * factor)
    engine = LlamaEngine(write_gguf(folder, tmp_path / "model.gguf"), None, 64 * factor, threads=1)
    assert engine.rope_factor == reference.rope_factor == factor
    tokens = reference.tokenize("tx2" + "ab,cd;" * 40)[: 64 * factor - 1]
    wanted = list(range(4, 40))
    (expected,) = reference.next_logprobs([tokens], [wanted])
    assert [float(value) for value in engine.next_logprobs(tokens)[wanted]] == pytest.approx(expected, abs=0.05)
    assert max(expected) - min(expected) > 1.0
    engine.close()


def test_a_stretch_too_far_is_an_error_that_names_the_largest_value(short: Path) -> None:
    with pytest.raises(ConfigError, match=rf"\[gate\] context_tokens.*stretched further.*under {int(NATIVE * LONGEST_STRETCH)} tokens"):
        LlamaEngine(short, None, int(NATIVE * LONGEST_STRETCH) + 1)


@pytest.mark.parametrize(("wanted", "trained", "factor"), [(64, 128, 1.0), (128, 128, 1.0), (384, 128, 3.0), (4096, 0, 1.0)])
def test_how_far_positions_are_stretched(wanted: int, trained: int, factor: float) -> None:
    assert rope_factor(wanted, trained, scalable=True, section="gate") == factor


def test_a_model_without_rotary_positions_holds_what_it_was_trained_with() -> None:
    assert rope_factor(128, 128, scalable=False, section="gate") == 1.0
    with pytest.raises(ConfigError, match=r"\[resolver\] context_tokens.*no rotary positions.*under 128 tokens"):
        rope_factor(129, 128, scalable=False, section="resolver")
