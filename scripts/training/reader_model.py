"""The reader of antecedents as a model that torch can train: a language model with an adapter and a head over its states, and the two files that it serves as."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.antecedent_features import Array
from core.antecedent_reader import MOST_TOKENS, READER_FORMAT, AntecedentReader, TokenPlaces, that_fits
from core.arrays import read_arrays
from core.errors import InputError
from core.pointer_reading import LINES
from core.span_head import HEAD
from scripts.training import base as bases
from scripts.training.base import Base
from scripts.training.e5 import head_arrays
from scripts.training.lineage import version_of, weights
from scripts.training.machine import bfloat16_products
from scripts.training.ranker_data import Case
from scripts.training.span_model import Item, item_of, make_head
from scripts.training.span_training import TOGETHER

if TYPE_CHECKING:
    import torch

#: What a run leaves, and what ships: the adapter and the head.
ADAPTER, HEAD_FILE = "reader.gguf", "reader.npz"
READING = "antecedent-reader-1"
_REMEDY = "Give the folder of a run of scripts.training.reader; what ships: core/shipped/resolver."


def item(case: Case, line_scores: Array, base: Base, lines: int) -> Item:
    """``line_scores`` (n,), out of fold."""

    def tokenize(text: str) -> list[int]:
        return [*base.start, *base.plain(text)]

    asked, ids = that_fits(case.scene, case.terms, line_scores, tokenize, lines)
    places = TokenPlaces(asked.text, [*([b""] * len(base.start)), *(piece(name) for name in base.tokenizer.convert_ids_to_tokens(list(ids[len(base.start) :])))])
    mentions = [(term, *places.span(start, end)) for term, start, end in asked.terms]
    return item_of(case, ids, mentions, [(index, places.span(start, end)) for index, start, end in asked.lines], places.span(*asked.asked))


def piece(name: str) -> bytes:
    """The bytes that a token of a SentencePiece vocabulary stands for: "<0xE4>" is a byte, "▁" a space."""
    return bytes([int(name[3:5], 16)]) if len(name) == 6 and name.startswith("<0x") and name.endswith(">") else name.replace("\u2581", " ").encode()


def make_model(language_model: Any, hidden: int, autocast: bool = False) -> Any:
    """``forward(items)`` is that of :func:`scripts.training.span_model.make_head`. ``autocast``: the language model multiplies in bfloat16."""
    import torch

    class Reader(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.lm = language_model
            self.head = make_head(hidden, 0.0)

        def forward(self, items: Sequence[Item]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            length = max(len(one.ids) for one in items)
            ids = torch.tensor([[*one.ids, *[0] * (length - len(one.ids))] for one in items])
            count = torch.tensor([len(one.ids) for one in items])
            seen = (torch.arange(length)[None, :] < count[:, None]).long()
            with bfloat16_products(autocast):
                hidden = self.lm.get_base_model().model(input_ids=ids, attention_mask=seen, use_cache=False).last_hidden_state.float()
            hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
            scores: list[tuple[torch.Tensor, torch.Tensor]] = self.head(items, hidden, hidden[torch.arange(len(items)), count - 1])
            return scores

    return Reader()


def load_head(model: Any, folder: Path) -> None:
    """The head of a run, or what ships, into ``model``; the choice among lines, which is not served, begins anew. Raises InputError."""
    import torch

    path = folder / HEAD_FILE
    arrays = read_arrays(path, "the head of a reader", _REMEDY)
    with torch.no_grad():
        for name in HEAD:
            for end, long in (("w", "weight"), ("b", "bias")):
                own, kept = getattr(model.head[name], long), arrays.get(f"head.{name}.{end}")
                if kept is None or kept.shape != tuple(own.shape) or kept.dtype.kind != "f":
                    raise InputError(str(path), f"its head.{name}.{end} is of another form", _REMEDY)
                own.copy_(torch.from_numpy(kept).float())


def write(model: Any, base: Base, digest: str, out: Path) -> None:
    """``out/adapter`` (peft), ``out/reader.gguf`` and ``out/reader.npz``."""
    from scripts.training import lora_gguf

    adapter = out / "adapter"
    model.lm.save_pretrained(adapter)
    identity = {"base": base.name, "tokenizer_hash": base.tokenizer_hash, "shape": bases.identity_shape(bases.base_config(base)), "prompts": {"reader": READING}}
    (adapter / bases.IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    lora_gguf.convert(adapter, base.folder, out / ADAPTER)
    head: dict[str, Any] = head_arrays(model.head, HEAD)
    version = version_of("reader", (out / ADAPTER).read_bytes(), weights(head))
    about: dict[str, Any] = {"format": np.array(READER_FORMAT), "version": np.array(version), "data_hash": np.array(digest)}
    np.savez_compressed(out / HEAD_FILE, **about, **head)


def said_in_training(model: Any, base: Base, cases: Sequence[tuple[Case, Array]]) -> Iterator[tuple[str, Array]]:
    """What :func:`said_by` gives, by torch in batches: several times as fast, and as near as the activations in 8 bits with which llama.cpp serves."""
    import torch

    items = [(case, item(case, line_scores, base, LINES)) for case, line_scores in cases]
    shown = sorted((pair for pair in items if pair[1].mentions), key=lambda pair: len(pair[1].ids))
    model.eval()
    for start in range(0, len(shown), TOGETHER):
        part = shown[start : start + TOGETHER]
        with torch.no_grad():
            answers = model([one for _, one in part])
        for (case, _), (terms, _) in zip(part, answers, strict=True):
            scores: Array = terms.double().numpy()
            seen = np.isfinite(scores)
            yield case.id, np.where(seen, scores, scores[seen].min() - 1.0)


def said_by(folder: Path, gguf: Path, cases: Sequence[tuple[Case, Array]]) -> list[tuple[str, Array]]:
    """(id, log-odds of all terms) of each of ``cases`` (with its line scores) of which it reads something, by llama.cpp with one thread, as it serves."""
    from core.gates.llama_engine import LlamaEngine

    engine = LlamaEngine(gguf, folder / ADAPTER, MOST_TOKENS, threads=1, sequences=1, embeddings=True)
    try:
        reader = AntecedentReader(engine, folder / HEAD_FILE, engine.width)
        said = ((case.id, reader.point(case.scene, case.terms, line_scores)) for case, line_scores in cases)
        return [(name, points) for name, points in said if points is not None]
    finally:
        engine.close()
