"""A trained reader as it is written and read again: llama.cpp on the quantised model says what torch says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.core.test_antecedent_pointer import LINES, SCENE

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("gguf")
pytestmark = pytest.mark.model


def test_what_is_served_says_what_was_trained(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.antecedent_features import line_features, terms_of
    from scripts.training import base as bases
    from scripts.training.ranker_data import Case
    from scripts.training.reader_model import item, load_head, make_model, said_by, said_in_training, write

    torch.manual_seed(1)
    base = bases.load_base("")
    language_model = AutoModelForCausalLM.from_pretrained(str(base.folder), dtype=torch.float32)
    hidden = int(bases.base_config(base)["hidden_size"])
    model = make_model(get_peft_model(language_model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")), hidden).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += 0.05 * torch.randn_like(weight)
    terms = terms_of(SCENE)
    case = Case("t1-001#0", 0, "yes", None, SCENE, line_features(SCENE), terms, np.zeros(len(terms), dtype=np.int64), np.zeros(len(LINES), dtype=bool))
    scores = np.full(len(LINES), 0.25)
    with torch.inference_mode():
        ((trained, _),) = model([item(case, scores, base, 10)])
    write(model, base, "0123456789abcdef", tmp_path)
    ((name, served),) = said_by(tmp_path, bases.packaged_gguf(), [(case, scores)])
    assert name == case.id
    assert np.ptp(served) > 0.1
    assert np.allclose(served, trained.numpy(), atol=0.2 * np.ptp(served)), "activations in 8 bits"
    assert np.corrcoef(served, trained.numpy())[0, 1] > 0.98
    ((_, quick),) = said_in_training(model, base, [(case, scores)])
    assert np.allclose(quick, trained.numpy(), atol=1e-4)
    again = make_model(model.lm, hidden)
    load_head(again, tmp_path)
    assert torch.allclose(again.head["span"].weight, model.head["span"].weight, atol=1e-3), "training begins at what serves"


@pytest.mark.parametrize("said", ["我把 yolov8s 转成 rknn 了 😀👍🏽", "▁▂▃ 显存曲线 <eos><start_of_turn> yolov8s", "yolov8s \ud800 <0x0A> 𠮷野家", "装 yolov8s " * 30])
def test_training_reads_the_tokens_that_serve(said: str) -> None:
    from core.antecedent_features import Scene, line_features, terms_of
    from core.antecedent_reader import asked_first
    from core.gates.llama_engine import LlamaEngine
    from core.messages import ContextLine
    from scripts.training import base as bases
    from scripts.training.ranker_data import Case
    from scripts.training.reader_model import item

    scene = Scene.of("它多大 <bos>", "乙", (ContextLine("甲", said),))
    terms = terms_of(scene)
    case = Case("t1-001#0", 0, "yes", None, scene, line_features(scene), terms, np.zeros(len(terms), dtype=np.int64), np.zeros(1, dtype=bool))
    made = item(case, np.ones(1), bases.load_base(""), 10)
    engine = LlamaEngine(bases.packaged_gguf(), None, 64, sequences=1)
    assert list(made.ids) == engine.tokenize(asked_first(scene, terms, np.ones(1)).text, start=True)
    _, first, last = next(mention for mention in made.mentions if terms[mention[0]].text == "yolov8s")
    assert b"yolov8s" in b"".join(engine.piece(token) for token in made.ids[first:last])
    engine.close()
