"""The pointer at antecedents as a model that torch can train: the packaged encoder with a head over its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.antecedent_features import Array
from core.encoder import EncoderFile
from core.pointer_reading import encoded, token_spans
from scripts.training.machine import bfloat16_products
from scripts.training.ranker_data import Case
from scripts.training.span_model import Item, item_of, make_head

if TYPE_CHECKING:
    import torch


def item(case: Case, line_scores: Array, file: EncoderFile, lines: int) -> Item:
    """``line_scores`` (n,), out of fold."""
    reading, encoding = encoded(case.scene, case.terms, line_scores, file, lines)
    shown = [(index, span) for index, start, end in reading.lines if (span := encoding.span(start, end)) is not None]
    return item_of(case, encoding.ids, token_spans(reading, encoding), shown, encoding.span(*reading.asked) or (0, 1))


def make_model(encoder: Any, dropout: float, autocast: bool = False) -> Any:
    """``forward(items)`` is that of :func:`scripts.training.span_model.make_head`. ``autocast``: the encoder multiplies in bfloat16."""
    import torch

    class Pointer(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder.model
            self.head = make_head(encoder.model.config.hidden_size, dropout)

        def forward(self, items: Sequence[Item]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            length = max(len(one.ids) for one in items)
            ids = torch.tensor([[*one.ids, *[encoder.pad] * (length - len(one.ids))] for one in items])
            seen = torch.tensor([[1] * len(one.ids) + [0] * (length - len(one.ids)) for one in items])
            with bfloat16_products(autocast):
                hidden = self.encoder(input_ids=ids, attention_mask=seen).last_hidden_state.float()
            scores: list[tuple[torch.Tensor, torch.Tensor]] = self.head(items, hidden, hidden[:, 0])
            return scores

    return Pointer()
