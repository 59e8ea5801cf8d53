"""Adapters as files: from peft to GGUF and back, and those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from tests.scripts.test_training_loop import tiny


def saved(folder: Path, **kind: Any) -> tuple[Path, Path]:
    model = tiny(**kind)
    model.save_pretrained(folder / "adapter")
    model.get_base_model().config.save_pretrained(folder / "base")
    return folder / "adapter", folder / "base"


@pytest.mark.parametrize("rslora", [False, True])
def test_a_gguf_adapter_has_llama_cpps_names_order_and_scale(tmp_path: Path, rslora: bool) -> None:
    gguf, np = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    from safetensors.numpy import load_file

    from scripts.training.lora_gguf import convert

    adapter, base = saved(tmp_path, rslora=rslora)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    from safetensors.numpy import save_file

    tensors[name] = np.arange(32 * 4, dtype=np.float32).reshape(32, 4)
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert convert(adapter, base, tmp_path / "a.gguf", "f32") == 2 * 7 * 2
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= set(found)
    assert [row[0] // 4 for row in found["blk.1.attn_q.weight.lora_b"][:8]] == [0, 4, 1, 5, 2, 6, 3, 7], "halves of a head interleaved"
    assert float(reader.fields["adapter.lora.alpha"].parts[-1][0]) == pytest.approx(16.0 if rslora else 8.0)


def test_a_gguf_adapter_comes_back_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from safetensors.numpy import load_file

    from scripts.training.lora_gguf import as_folder, convert

    model = tiny()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    base = tiny().unload()
    base.save_pretrained(tmp_path / "base")
    convert(tmp_path / "adapter", tmp_path / "base", tmp_path / "a.gguf", "f32")
    restored = as_folder(tmp_path / "a.gguf", tmp_path / "base", tmp_path / "restored")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "adapter", restored))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    ids = torch.arange(3, 9)[None]
    again = PeftModel.from_pretrained(base, str(restored), is_trainable=True)
    assert torch.allclose(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


def test_a_gguf_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from safetensors.numpy import load_file, save_file

    from scripts.training.lora_gguf import convert, restore

    adapter, base = saved(tmp_path)
    tiny().unload().save_pretrained(base)
    convert(adapter, base, tmp_path / "a.gguf", "f32")
    weights = load_file(base / "model.safetensors")
    save_file({name: value[:, :4] if value.ndim == 2 else value for name, value in weights.items()}, base / "model.safetensors")
    with pytest.raises(InputError, match="no place in the base model"):
        restore(tmp_path / "a.gguf", base, tmp_path / "restored")
    (tmp_path / "broken.gguf").write_bytes(b"no gguf")
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        restore(tmp_path / "broken.gguf", base, tmp_path / "restored")


def test_a_dora_adapter_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from scripts.training.lora_gguf import convert

    adapter, base = saved(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(InputError, match="DoRA"):
        convert(adapter, base, tmp_path / "a.gguf")


@pytest.mark.parametrize(("key", "value", "said"), [("tokenizer_hash", "other", "another tokenizer"), ("shape", {"hidden_size": 1}, "does not match the base model")])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    from scripts.training.base import IDENTITY, Base, check_adapter, identity_shape

    base = Base("here", tmp_path, None, (), 0, "same")
    (tmp_path / IDENTITY).write_text(json.dumps({"base": "there", "tokenizer_hash": "same", "shape": identity_shape({}), key: value}))
    with pytest.raises(InputError, match=said):
        check_adapter(tmp_path, base, {})


def test_a_base_that_also_sees_images_is_read_by_its_language_model(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file, save_file

    from scripts.training.base import identity_shape
    from scripts.training.lora_gguf import convert

    adapter, base = saved(tmp_path)
    text = json.loads((base / "config.json").read_text()) | {"model_type": "gemma3_text"}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 7}}
    (base / "config.json").write_text(json.dumps(config))
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace("model.layers", "model.language_model.layers"): value for name, value in load_file(file).items()}, file)
    assert convert(adapter, base, tmp_path / "a.gguf", "f32") == 2 * 7 * 2
    assert "blk.1.ffn_down.weight.lora_b" in {tensor.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert identity_shape(config) == identity_shape(text)


def test_a_base_from_a_hub_says_why_it_has_no_gguf_adapter(tmp_path: Path) -> None:
    from scripts.training.base import Base
    from scripts.training.run import gguf_adapter

    assert "model hub" in gguf_adapter(tmp_path, Base("org/model", Path("org/model"), None, (), 0, ""), tmp_path / "adapter.gguf")


def test_a_folder_without_an_adapter_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    from scripts.training.init_adapter import adapter_hash

    (tmp_path / "adapter_config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"RUN/adapter or an adapter\.gguf"):
            adapter_hash(path)
    assert adapter_hash(None) is None


@pytest.mark.parametrize("identity", [{}, [], {"base": "b", "shape": {}}])
def test_an_identity_without_its_keys_is_one_line(tmp_path: Path, identity: Any) -> None:
    from scripts.training.base import IDENTITY, Base, check_adapter

    (tmp_path / IDENTITY).write_text(json.dumps(identity))
    with pytest.raises(InputError, match=r"doujie\.json: does not tell"):
        check_adapter(tmp_path, Base("b", tmp_path, None, (), 0, ""), {})


def test_an_adapter_of_other_shapes_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from safetensors.numpy import load_file, save_file

    from scripts.training.base import Base
    from scripts.training.init_adapter import adapter_settings, with_init_adapter

    adapter, base = saved(tmp_path)
    described = Base("b", base, None, (), 0, "")
    loaded = with_init_adapter(tiny().unload(), adapter, described, {}, tmp_path / "initial")
    assert adapter_settings(loaded) | {"targets": ""} == {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "", "rslora": False, "dora": False}
    file = adapter / "adapter_model.safetensors"
    save_file({name: value[:, :3].copy() for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match="does not fit the base model b") as caught:
        with_init_adapter(tiny().unload(), adapter, described, {}, tmp_path / "initial")
    assert "\n" not in str(caught.value)
