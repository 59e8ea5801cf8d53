"""A thin, synchronous layer over llama.cpp's C API: tokens in, log-probabilities out, with the longest common prefix of successive prompts kept in the KV cache.

Everything here must be called from one thread (see :mod:`core.gates.worker`). Weights are loaded once per file and shared by all contexts of the process; a LoRA adapter
belongs to one context.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.errors import BackendError, ConfigError
from core.gates.chat import PLAIN, ChatFrame, frame_of, render_template
from core.gates.limits import SEQUENCES, PromptTooLongError, rope_factor

try:
    import llama_cpp
except (OSError, RuntimeError) as problem:  # the package is there, and a library that it needs is not
    raise BackendError("llama_cpp", f"llama-cpp-python cannot be loaded ({problem})") from None

_BATCH = 512
#: Tokens whose states are computed at once: llama.cpp makes a row of logits for each of them, 1 MB for a vocabulary of 262,144.
_STATES = 16


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # the package has no types
def _silent(level: int, text: bytes, data: object) -> None:
    """llama.cpp writes its progress to stderr; what matters reaches the caller as an exception."""


class _Weights:
    """A model file in memory, shared and counted."""

    loaded: ClassVar[dict[str, _Weights]] = {}

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise ConfigError("gate", "model", str(path), "llama.cpp cannot load this file", "Is it complete, and of an architecture that the installed llama-cpp-python knows?")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.users = 0
        self._path = str(path)

    @classmethod
    def take(cls, path: Path) -> _Weights:
        weights = cls.loaded.get(str(path))
        if weights is None:
            weights = cls.loaded[str(path)] = cls(path)
        weights.users += 1
        return weights

    def release(self) -> None:
        self.users -= 1
        if self.users == 0:
            llama_cpp.llama_model_free(self.model)
            del self.loaded[self._path]


def default_threads() -> int:
    """All cores that this process may use but one.

    llama.cpp's threads wait for each other many times a token, by spinning: where anything else wants the last core, all of them stand still with the one
    that lost it (ten times slower was seen).
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaEngine:
    """One context over a GGUF model.

    ``context_tokens``: longest prompt and continuation together (18 KB a token for a 270M Gemma); ``threads`` 0: see :func:`default_threads`; ``sequences``: a prompt and the
    continuations or branches that are decoded together with it, at least 2; each keeps room for a row of logits (1 MB for a vocabulary of 262,144); ``embeddings``: it is made for
    :meth:`states`.
    """

    def __init__(self, path: Path, adapter: Path | None = None, context_tokens: int = 1536, threads: int = 0, sequences: int = SEQUENCES, *, embeddings: bool = False) -> None:
        self._sequences, self._embeddings = max(2, sequences), embeddings
        self._weights = _Weights.take(path)
        self._context: Any = None
        self._adapter: Any = None
        try:
            self._open(adapter, context_tokens, threads or default_threads())
        except BaseException:
            self.close()
            raise
        self.width: int = llama_cpp.llama_model_n_embd(self._weights.model)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self._weights.vocabulary)
        self.context_tokens = context_tokens
        self._kept: list[int] = []
        self.decoded_tokens = 0

    def _open(self, adapter: Path | None, context_tokens: int, threads: int) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = _BATCH
        parameters.n_seq_max = self._sequences
        parameters.kv_unified = True
        parameters.swa_full = True  # a pruned sliding window could not be rewound to an earlier prefix
        parameters.n_threads = parameters.n_threads_batch = threads
        if self._embeddings:
            parameters.embeddings, parameters.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
        trained = llama_cpp.llama_model_n_ctx_train(self._weights.model)
        has_rope = llama_cpp.llama_model_rope_type(self._weights.model) != llama_cpp.LLAMA_ROPE_TYPE_NONE
        self.rope_factor = rope_factor(context_tokens, trained, scalable=has_rope, section="gate")
        if self.rope_factor > 1.0:
            parameters.rope_scaling_type = llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN
            parameters.rope_freq_scale = 1.0 / self.rope_factor
            parameters.yarn_orig_ctx = trained
        self._context = llama_cpp.llama_init_from_model(self._weights.model, parameters)
        if not self._context:
            raise BackendError("llama_cpp", f"no memory for a context of {context_tokens} tokens")
        if adapter is not None:
            self._adapter = llama_cpp.llama_adapter_lora_init(self._weights.model, str(adapter).encode())
            if not self._adapter:
                raise ConfigError("gate", "adapter", str(adapter), "does not fit this model", "Use the base model that the adapter was trained on, or leave adapter empty.")
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            if llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
                raise ConfigError("gate", "adapter", str(adapter), "cannot be applied to this model", "Use the base model that the adapter was trained on, or leave adapter empty.")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, self._sequences)

    def tokenize(self, text: str, *, start: bool = False, special: bool = False) -> list[int]:
        """Token ids of ``text``. ``start`` puts the begin-of-sequence token in front of models that were trained with one.

        ``special``: names of special tokens are these tokens; else they are plain text, as members' words must be.
        """
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self._weights.vocabulary, data, len(data), buffer, size, False, special)
        tokens = list(buffer[:count])
        first = llama_cpp.llama_vocab_bos(self._weights.vocabulary)
        wanted = start and first >= 0 and llama_cpp.llama_vocab_get_add_bos(self._weights.vocabulary) and tokens[:1] != [first]
        return [first, *tokens] if wanted else tokens

    def chat_frame(self, name: str) -> ChatFrame:
        """The frame of the model file's own chat template; ``PLAIN`` for a base model."""
        template = llama_cpp.llama_model_chat_template(self._weights.model, None)
        if not template:
            return PLAIN
        first, end = (self._name_of(read(self._weights.vocabulary)) for read in (llama_cpp.llama_vocab_bos, llama_cpp.llama_vocab_eos))
        return frame_of(lambda user: render_template(template.decode("utf-8", "replace"), user, first, end), name)

    def _name_of(self, token: int) -> str:
        text = llama_cpp.llama_vocab_get_text(self._weights.vocabulary, token) if token >= 0 else b""
        return (text or b"").decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for."""
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self._weights.vocabulary, token, buffer, 256, 0, False)
        return buffer.raw[: max(0, length)]

    def next_logprobs(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Natural-log probabilities of the token after ``tokens``. Shape (vocabulary,)."""
        self._prefill(tokens)
        return _log_softmax(self._logits(-1))

    def score(self, tokens: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each continuation after ``tokens``; the continuations share the cached prompt and are decoded together."""
        first = self.next_logprobs(tokens)
        scores = [[float(first[continuation[0]])] if continuation else [] for continuation in continuations]
        waiting = [index for index, continuation in enumerate(continuations) if len(continuation) > 1]
        while waiting:
            group: list[int] = []
            used = 0
            while waiting and len(group) < self._sequences - 1 and (not group or used + len(continuations[waiting[0]]) - 1 <= _BATCH):
                used += len(continuations[waiting[0]]) - 1
                group.append(waiting.pop(0))
            self._check_room(len(tokens) + used)
            self._score_group(len(tokens), [(continuations[index], scores[index]) for index in group])
        return scores

    def branch_logprobs(self, tokens: Sequence[int], branches: Sequence[Sequence[int]], answers: Sequence[int]) -> list[list[float]]:
        """Log-probability of each of ``answers`` as the token after ``tokens`` and each branch; the branches share the cached prompt and are decoded together."""
        self._prefill(tokens)
        found: list[list[float]] = []
        waiting = list(branches)
        while waiting:
            if len(waiting[0]) > _BATCH:  # its tokens would be written behind the end of the batch
                logs = self.next_logprobs([*tokens, *waiting.pop(0)])
                found.append([float(logs[answer]) for answer in answers])
                self._prefill(tokens)
                continue
            group: list[Sequence[int]] = []
            while waiting and len(group) < self._sequences - 1 and (not group or sum(map(len, group)) + len(waiting[0]) <= _BATCH):
                group.append(waiting.pop(0))
            self._check_room(len(tokens) + sum(map(len, group)))
            found += self._branch_group(len(tokens), group, list(answers))
        return found

    def _branch_group(self, start: int, group: Sequence[Sequence[int]], answers: list[int]) -> list[list[float]]:
        filled, ends = 0, []
        for sequence, branch in enumerate(group, 1):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            for offset, token in enumerate(branch):
                self._put(filled, token, start + offset, sequence, offset == len(branch) - 1)
                filled += 1
            ends.append(filled - 1)
        self._batch.n_tokens = filled
        self._decode()
        found = []
        for sequence, end in enumerate(ends, 1):
            logits = self._logits(end)
            found.append([float(value) for value in logits[answers] - _log_sum_exp(logits)])
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return found

    def _score_group(self, start: int, group: list[tuple[Sequence[int], list[float]]]) -> None:
        batch, filled = self._batch, 0
        for sequence, (continuation, _) in enumerate(group, 1):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            for offset, token in enumerate(continuation[:-1]):
                self._put(filled, token, start + offset, sequence, True)
                filled += 1
        batch.n_tokens = filled
        self._decode()
        row = 0
        for sequence, (continuation, scores) in enumerate(group, 1):
            for token in continuation[1:]:
                logits = self._logits(row)
                scores.append(float(logits[token] - _log_sum_exp(logits)))
                row += 1
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def generate(self, tokens: Sequence[int], max_tokens: int, stop: bytes) -> tuple[bytes, list[float]]:
        """Greedy text up to ``stop``, an end-of-text token or ``max_tokens``, and the log-probability of each generated token."""
        text, logprobs = b"", []
        logs = self.next_logprobs(tokens)
        for _ in range(max_tokens):
            token = int(logs.argmax())
            if llama_cpp.llama_vocab_is_eog(self._weights.vocabulary, token):
                break
            logprobs.append(float(logs[token]))
            text += self.piece(token)
            if stop in text:
                text = text[: text.index(stop)]
                break
            if len(self._kept) + 1 > self.context_tokens:
                break
            logs = self.next_logprobs([*self._kept, token])
        return text, logprobs

    def states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Hidden states behind the last norm, all finite. Shape (n, width). Nothing of earlier calls is kept. Raises BackendError."""
        self._check_room(len(tokens))
        self.forget()
        found = np.zeros((len(tokens), self.width), dtype=np.float32)
        for begin in range(0, len(tokens), _STATES):
            part = tokens[begin : begin + _STATES]
            for offset, token in enumerate(part):
                self._put(offset, token, begin + offset, 0, True)
            self._batch.n_tokens = len(part)
            self._decode()
            for offset in range(len(part)):
                state = llama_cpp.llama_get_embeddings_ith(self._context, offset)
                found[begin + offset] = np.ctypeslib.as_array(state, shape=(self.width,)) if state else np.nan
        self._kept = list(tokens)
        if not np.isfinite(found).all():
            raise BackendError("llama_cpp", "tells no states")
        return found

    def _prefill(self, tokens: Sequence[int]) -> None:
        self._check_room(len(tokens))
        kept = 0
        for mine, theirs in zip(self._kept, tokens, strict=False):
            if mine != theirs:
                break
            kept += 1
        kept = min(kept, len(tokens) - 1)  # the last token is decoded again: its logits are wanted
        if kept < len(self._kept):
            llama_cpp.llama_memory_seq_rm(self._memory, 0, kept, -1)
        self._kept = list(tokens[:kept])
        for begin in range(kept, len(tokens), _BATCH):
            part = tokens[begin : begin + _BATCH]
            for offset, token in enumerate(part):
                self._put(offset, token, begin + offset, 0, begin + offset == len(tokens) - 1)
            self._batch.n_tokens = len(part)
            self._decode()
            self._kept += part

    def _put(self, index: int, token: int, position: int, sequence: int, wants_logits: bool) -> None:
        batch = self._batch
        batch.token[index], batch.pos[index] = token, position
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        batch.logits[index] = wants_logits

    def _decode(self) -> None:
        self.decoded_tokens += self._batch.n_tokens
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            llama_cpp.llama_memory_clear(self._memory, True)
            self._kept = []
            raise BackendError("llama_cpp", f"llama_decode failed with code {code}")

    def _logits(self, index: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))

    def _check_room(self, tokens: int) -> None:
        if tokens > self.context_tokens:
            raise PromptTooLongError("llama_cpp", tokens, self.context_tokens)

    def forget(self) -> None:
        """Drop the cached prefix."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self._kept = []

    def close(self) -> None:
        """Free the context, and the weights when this was their last user. Idempotent."""
        if self._context:
            if hasattr(self, "_batch"):
                llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._adapter:
            llama_cpp.llama_adapter_lora_free(self._adapter)
            self._adapter = None
        if self._weights is not None:
            self._weights.release()
            self._weights = None  # type: ignore[assignment]  # nobody asks an engine that is closed


def _log_sum_exp(logits: NDArray[np.float32]) -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - top).sum()))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits - np.float32(_log_sum_exp(logits))
