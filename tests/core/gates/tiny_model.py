"""Tiny models with random weights as folders of safetensors, and as GGUF files, so that both local back ends can be asked about the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

MISSING = "torch and transformers are not installed: pip install 'doujie[gpu]'"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def tiny_model(folder: Path, *, trained_tokens: int = 512, family: str = "llama", chat: bool = False) -> Path:
    """A causal model of two layers and a tokenizer of bytes, saved as a folder of safetensors."""
    torch = pytest.importorskip("torch", reason=MISSING)
    transformers = pytest.importorskip("transformers", reason=MISSING)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate([*special, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", extra_special_tokens=special[2:])
    if chat:
        fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    sizes = {"vocab_size": len(fast), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    if family == "gpt2":
        config: Any = transformers.GPT2Config(vocab_size=len(fast), n_embd=32, n_layer=2, n_head=2, n_positions=trained_tokens, **ends)
    elif family == "gemma3":
        config = transformers.Gemma3TextConfig(
            **sizes, **ends, head_dim=16, sliding_window=64, max_position_embeddings=trained_tokens, layer_types=["sliding_attention", "full_attention"]
        )
    else:
        config = transformers.LlamaConfig(**sizes, **ends, max_position_embeddings=trained_tokens, initializer_range=0.4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_gguf(folder: Path, target: Path) -> Path:
    """Convert the folder that :func:`tiny_model` saved (family llama) to float32 GGUF. Skips without the library ``gguf``."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'doujie[train]'")
    transformers = pytest.importorskip("transformers", reason=MISSING)
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token.startswith("<") and len(token) > 1 else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(["Ġ Ġ"])  # an empty list cannot be written; this one applies to nothing that is in the vocabulary
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(values, config.num_attention_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _interleaved(weights: Any, heads: int) -> Any:
    """llama.cpp rotates neighbouring pairs of a Llama's head, transformers the two halves."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def with_context_length(source: Path, target: Path, tokens: int) -> Path:
    """A copy of a GGUF file that says it was trained with ``tokens``."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'doujie[train]'")
    target.write_bytes(source.read_bytes())
    reader = gguf.GGUFReader(str(target), "r+")
    architecture = reader.fields["general.architecture"].contents()
    reader.fields[f"{architecture}.context_length"].parts[-1][0] = tokens
    reader.data.flush()
    return target
