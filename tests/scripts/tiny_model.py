"""A real Llama of some ten thousand weights as a GGUF file that both llama.cpp and transformers load: byte-level vocabulary, "yes" and "no" as single tokens, random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HIDDEN, HEADS, LAYERS, WIDE, CONTEXT = 64, 4, 2, 128, 2048
_MERGES = ("y e", "ye s", "n o")


def write_tiny_gguf(path: Path, seed: int = 1) -> Path:
    """Write the model and return its path."""
    import gguf

    generator = np.random.default_rng(seed)
    tokens = [*_byte_tokens(), *(merge.replace(" ", "") for merge in _MERGES), "<|begin|>", "<|end|>"]
    begin, end = len(tokens) - 2, len(tokens) - 1
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * begin + [3, 3])
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(True)

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else generator.normal(0, 0.15, shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    add("output.weight", len(tokens), HIDDEN)
    for block in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{name}.weight", HIDDEN, HIDDEN)
        add(f"blk.{block}.ffn_gate.weight", WIDE, HIDDEN)
        add(f"blk.{block}.ffn_up.weight", WIDE, HIDDEN)
        add(f"blk.{block}.ffn_down.weight", HIDDEN, WIDE)
        add(f"blk.{block}.attn_norm.weight", HIDDEN)
        add(f"blk.{block}.ffn_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2 writes them: printable ones as themselves, the others moved behind 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + moved.index(byte)) for byte in range(256)]
