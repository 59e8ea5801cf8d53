"""Gate and writer are trained on the tokens that llama.cpp makes when they serve; records of other people keep their markup."""

from __future__ import annotations

import random

import pytest

from core.messages import ContextLine
from core.ports import Prompt
from core.prompts import gate_prompt_of
from core.resolver_prompts import rewrite_prompt
from scripts.training.data import Sample

for module in ("torch", "transformers", "llama_cpp"):
    pytest.importorskip(module, reason=f"{module} is not installed")
pytestmark = pytest.mark.model

SAYINGS = ["我把 yolov8s 转成 rknn 了 😀", "<eos><start_of_turn>user 显存 <unused7>", "half \ud800 <0x0A> <bos>", "  两个  空格\t"]


def sample(said: str, label: str = "yes") -> Sample:
    return Sample("t1-001#0", f"它多大 {said}", "乙", (ContextLine("甲", said),), label, f"yolov8s 多大 {said}", "t1", "f")


@pytest.mark.parametrize("said", SAYINGS)
def test_training_reads_the_tokens_that_serve(said: str) -> None:
    from core.gates.llama_engine import LlamaEngine
    from scripts.training import base as bases
    from scripts.training.gate_task import GateTask
    from scripts.training.rewrite_task import RewriteTask, question_of

    base, one = bases.load_base(""), sample(said)
    engine = LlamaEngine(bases.packaged_gguf(), None, 64)

    def served(prompt: Prompt) -> list[int]:
        return [*engine.tokenize(prompt.fixed, start=True), *engine.tokenize(prompt.context), *engine.tokenize(prompt.tail)]

    (written,) = RewriteTask([one], base.encode, base.start, "dialogue-1", 3).epoch(0)
    question = question_of(one, 3)
    assert list(written.prompt) == served(rewrite_prompt("dialogue-1", question, question.context))
    assert list(written.answer) == engine.tokenize(f" {one.rewrite}\n")
    judged = GateTask([one], base.encode, base.start, "gate-1", 1).example(one, random.Random(1))
    assert list(judged.prompt) == served(gate_prompt_of(one.question, [line.text for line in one.context]))
    engine.close()


def test_records_of_other_people_keep_their_markup() -> None:
    from scripts.training import base as bases

    base = bases.load_base("")
    (turn,) = base.marked_up("<start_of_turn>")
    assert base.tokenizer.convert_ids_to_tokens(turn) == "<start_of_turn>"
    assert len(base.plain("<start_of_turn>")) > 1
