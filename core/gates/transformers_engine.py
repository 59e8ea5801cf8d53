"""A thin, synchronous layer over torch, transformers and peft: tokens in, log-probabilities out. Everything here must be called from one thread (see :mod:`core.gates.worker`).

torch and transformers are imported when an engine is made, never before. The device is a parameter: nothing else differs between CPU and GPU but the number format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from core.errors import BackendError, ConfigError
from core.gates.chat import PLAIN, ChatFrame, frame_of
from core.gates.limits import PromptTooLongError, rope_factor

log = structlog.get_logger(__name__)

BACKEND = "transformers"
#: Prompts in one forward pass, until the device's memory says otherwise.
BATCH = 16

R = TypeVar("R")


class TransformersEngine:
    """A causal language model, with or without a peft adapter.

    ``model``: a folder of safetensors, a GGUF file, or a hub name; ``device``: auto, cpu, cuda, cuda:0, mps ...; ``context_tokens``: longest prompt and continuation together.
    """

    def __init__(self, model: str, adapter: Path | None = None, context_tokens: int = 1536, device: str = "auto", threads: int = 0, section: str = "gate") -> None:
        """:raises ConfigError: for a model, adapter, device or length that does not do. :raises ImportError: without torch or transformers."""
        try:
            import torch
            import transformers
        except OSError as error:
            raise BackendError(BACKEND, f"torch cannot be loaded ({_first_line(error)})") from None

        self._torch = torch
        if threads:
            torch.set_num_threads(threads)
        self.device = pick_device(torch, device, section)
        self.dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        try:
            source, extra = _source(model)
            config = transformers.AutoConfig.from_pretrained(source, **extra)
            text_config = config.get_text_config()
            trained = int(getattr(text_config, "max_position_embeddings", 0) or 0)
            factor = rope_factor(context_tokens, trained, scalable=bool(getattr(text_config, "rope_parameters", None)), section=section)
            if factor > 1.0:
                stretch(text_config, factor, trained)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(source, **extra)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(source, config=config, dtype=self.dtype, **extra)
            self._model = self._on_device(loaded, adapter, section)
        except (torch.OutOfMemoryError, MemoryError):
            raise BackendError(BACKEND, f"no memory on {self.device} for this model") from None
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            remedy = "Give a folder with config.json, tokenizer and safetensors of a causal language model, or a GGUF file of an architecture that transformers knows."
            raise ConfigError(section, "model", model, f"transformers cannot load it ({type(error).__name__}: {_first_line(error)})", remedy) from None
        self.context_tokens, self.rope_factor = context_tokens, factor
        self.batch = BATCH
        self.frame = PLAIN if adapter else self._chat_frame(model)

    def _on_device(self, loaded: Any, adapter: Path | None, section: str) -> Any:
        if adapter is not None:
            import peft

            try:
                # Merged, the adapter costs nothing per token.
                loaded = peft.PeftModel.from_pretrained(loaded, str(adapter)).merge_and_unload()
            except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
                remedy = "Give the folder of a peft LoRA adapter (adapter_config.json) that was trained on this base model, or leave adapter empty."
                raise ConfigError(section, "adapter", str(adapter), f"does not fit this model ({_first_line(error)})", remedy) from None
        return loaded.to(self.device).eval()

    def _chat_frame(self, name: str) -> ChatFrame:
        tokenizer = self._tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return PLAIN

        def render(user: str) -> str:
            return str(tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True, enable_thinking=False))

        return frame_of(render, name)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``. ``special``: names of special tokens are these tokens; else they are plain text, as members' words must be."""
        return list(self._tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False, split_special_tokens=not special)["input_ids"])

    def start_tokens(self) -> list[int]:
        """The tokens that come before everything else: the begin-of-sequence token of models that have one, and the opening of the chat template."""
        first = list(self._tokenizer("", add_special_tokens=True)["input_ids"])
        end = self._tokenizer.eos_token_id
        first = first[:-1] if first and first[-1] == end and end != self._tokenizer.bos_token_id else first
        opening = self.tokenize(self.frame.before, special=True)
        return opening if first and opening[: len(first)] == first else [*first, *opening]

    def end_tokens(self) -> list[int]:
        """The tokens between the prompt and the answer."""
        return self.tokenize(self.frame.after, special=True)

    def next_logprobs(self, rows: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row of tokens the natural-log probabilities of its ``wanted`` tokens as the next. Rows of like length are read together."""
        results: list[list[float]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))

        def read(part: Sequence[int]) -> None:
            logits = self._forward([rows[index] for index in part], 1)[:, -1]
            logs = logits.float().log_softmax(-1)
            for row, index in enumerate(part):
                results[index] = [float(value) for value in logs[row, list(wanted[index])].tolist()]

        self._in_batches(order, read)
        return results

    def score(self, tokens: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each continuation after ``tokens``."""
        results: list[list[float]] = [[] for _ in continuations]

        def read(part: Sequence[int]) -> None:
            kept = max(len(continuations[index]) for index in part) + 1
            logs = self._forward([[*tokens, *continuations[index]] for index in part], kept).float().log_softmax(-1)
            for row, index in enumerate(part):
                count = len(continuations[index])
                # Rows end together: the token at place -count + i is foretold one place before.
                results[index] = [float(logs[row, -count - 1 + i, token]) for i, token in enumerate(continuations[index])]

        self._in_batches([index for index, continuation in enumerate(continuations) if continuation], read)
        return results

    def generate(self, tokens: Sequence[int], max_tokens: int, stop: str) -> tuple[str, list[float]]:
        """Greedy text up to ``stop``, an end-of-text token or ``max_tokens``, and the log-probability of each generated token."""
        self._check_room(len(tokens))
        return self._guarded(lambda: self._decode(tokens, min(max_tokens, self.context_tokens - len(tokens)), stop))

    def _decode(self, tokens: Sequence[int], max_tokens: int, stop: str) -> tuple[str, list[float]]:
        torch = self._torch
        ends = self._end_ids()
        made: list[int] = []
        logprobs: list[float] = []
        text, cache = "", None
        step = torch.tensor([list(tokens)], device=self.device)
        with torch.inference_mode():
            while len(made) < max_tokens:
                output = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                logs = output.logits[0, -1].float().log_softmax(-1)
                token = int(logs.argmax())
                if token in ends:
                    break
                made.append(token)
                logprobs.append(float(logs[token]))
                text = self._tokenizer.decode(made, skip_special_tokens=True)
                if stop in text:
                    return text[: text.index(stop)], logprobs
                step = torch.tensor([[token]], device=self.device)
        return text, logprobs

    def _end_ids(self) -> set[int]:
        named = getattr(self._model.generation_config, "eos_token_id", None)
        ids = named if isinstance(named, list) else [named]
        return {int(one) for one in (*ids, self._tokenizer.eos_token_id) if one is not None}

    def _forward(self, rows: Sequence[Sequence[int]], kept: int) -> Any:
        """Logits of the last ``kept`` places. Shape (rows, kept, vocabulary). Rows are padded on the left, so that they end together."""
        torch = self._torch
        longest = max(len(row) for row in rows)
        self._check_room(longest)
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(list(row))
            mask[index, longest - len(row) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            return self._model(**{name: tensor.to(self.device) for name, tensor in inputs.items()}, use_cache=False, logits_to_keep=kept).logits

    def _in_batches(self, order: Sequence[int], read: Callable[[Sequence[int]], None]) -> None:
        """``read`` all of ``order`` in parts; half as many at a time from the moment when memory runs out. Raises BackendError when even one is too many."""
        done = 0
        while done < len(order):
            part = order[done : done + self.batch]
            try:
                read(part)
            except (self._torch.OutOfMemoryError, MemoryError):
                self._empty_cache()
                if len(part) == 1:
                    raise BackendError(BACKEND, f"out of memory on {self.device} with a single prompt") from None
                self.batch = len(part) // 2
                log.warning("out_of_memory", backend=BACKEND, device=self.device, batch=self.batch)
                continue
            except RuntimeError as error:
                raise BackendError(BACKEND, f"{self.device}: {_first_line(error)}") from None
            done += len(part)

    def _guarded(self, work: Callable[[], R]) -> R:
        try:
            return work()
        except (self._torch.OutOfMemoryError, MemoryError):
            self._empty_cache()
            raise BackendError(BACKEND, f"out of memory on {self.device} with a single prompt") from None
        except RuntimeError as error:
            raise BackendError(BACKEND, f"{self.device}: {_first_line(error)}") from None

    def _empty_cache(self) -> None:
        if self.device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    def _check_room(self, tokens: int) -> None:
        if tokens > self.context_tokens:
            raise PromptTooLongError(BACKEND, tokens, self.context_tokens)

    def close(self) -> None:
        """Free the model. Idempotent."""
        self._model = None
        self._empty_cache()


def pick_device(torch: Any, device: str, section: str = "gate") -> str:
    """The torch device that ``device`` means; auto: cuda, else mps, else cpu. Raises ConfigError for one that is not there."""
    has_mps = bool(torch.backends.mps.is_available())
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0, "mps": int(has_mps)}.get(kind, 0)
    if there == 0 or (number and not (number.isdigit() and int(number) < there)):
        remedy = "Use auto or cpu; for cuda, install a torch build for CUDA and check that nvidia-smi lists the GPU."
        raise ConfigError(section, "device", device, "this device is not there", remedy)
    return device


def stretch(config: Any, factor: float, trained: int) -> None:
    """Set YaRN scaling by ``factor`` in a transformers config, for the layers that see the whole context where layers differ."""
    parameters = config.rope_parameters
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained}
    by_layer = parameters.get("full_attention")
    if isinstance(by_layer, dict):
        config.rope_parameters = {**parameters, "full_attention": {**by_layer, **scaling}}
    else:
        config.rope_parameters = {**parameters, **scaling}
    config.max_position_embeddings = int(trained * factor + 0.5)


def _source(model: str) -> tuple[str, dict[str, Any]]:
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    if path.exists():
        return str(path), {"local_files_only": True}
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise FileNotFoundError("no such folder")  # a path, and no hub name: do not ask the hub for it
    return model, {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
