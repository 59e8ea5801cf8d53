"""The pointer at antecedents as a model that torch can train: a batch of questions, the scores of their candidates, and the loss over them.

A candidate is the states of its first and last token and their mean, compared with the question's; what stands several times counts with all its mentions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.antecedent_features import Array
from core.encoder import EncoderFile
from core.pointer_reading import encoded, token_spans
from scripts.training.judge_items import GRADE_WORTH
from scripts.training.machine import bfloat16_products
from scripts.training.ranker_data import Case

if TYPE_CHECKING:
    import torch

#: Part of the loss that the choice among the lines has: it is trained beside the choice among the terms, and not served.
LINE_LOSS = 0.3
#: Width of the space in which candidates and question are compared.
WIDTH = 192


@dataclass(frozen=True, slots=True)
class Item:
    """One question as token ids. ``mentions``: (index of the term, first token, last + 1); ``lines``: tokens of each shown line; ``worth`` of each term, 0 where it is wrong;
    ``antecedent``: whether each shown line names what is meant."""

    ids: tuple[int, ...]
    mentions: tuple[tuple[int, int, int], ...]
    lines: tuple[tuple[int, int], ...]
    asked: tuple[int, int]
    worth: tuple[float, ...]
    antecedent: tuple[bool, ...]


def item(case: Case, line_scores: Array, file: EncoderFile, lines: int) -> Item:
    """``line_scores`` (n,), out of fold."""
    reading, encoding = encoded(case.scene, case.terms, line_scores, file, lines)
    shown = [(index, span) for index, start, end in reading.lines if (span := encoding.span(start, end)) is not None]
    worth = tuple(GRADE_WORTH[grade] if case.resolvable else 0.0 for grade in case.grades)
    antecedent = tuple(bool(case.antecedent[index]) and case.resolvable for index, _ in shown)
    return Item(encoding.ids, tuple(token_spans(reading, encoding)), tuple(span for _, span in shown), encoding.span(*reading.asked) or (0, 1), worth, antecedent)


def make_model(encoder: Any, dropout: float, autocast: bool = False) -> Any:
    """``forward(items)`` gives for each item (log-odds of its terms (n,), -inf for those not shown, log-odds of its lines (m,)), "none" at 0. ``autocast``: the encoder
    multiplies in bfloat16."""
    import torch
    from torch.nn import Linear
    from torch.nn.functional import gelu

    class Pointer(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            hidden = encoder.model.config.hidden_size
            self.encoder = encoder.model
            self.head = torch.nn.ModuleDict({
                "span": Linear(3 * hidden, WIDTH), "asked": Linear(2 * hidden, WIDTH), "out": Linear(WIDTH, 1), "none": Linear(WIDTH, 1), "line": Linear(hidden, WIDTH),
                "line_out": Linear(WIDTH, 1),
            })  # fmt: skip
            self.dropout = torch.nn.Dropout(dropout)

        def forward(self, items: Sequence[Item]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            length = max(len(one.ids) for one in items)
            ids = torch.tensor([[*one.ids, *[encoder.pad] * (length - len(one.ids))] for one in items])
            seen = torch.tensor([[1] * len(one.ids) + [0] * (length - len(one.ids)) for one in items])
            with bfloat16_products(autocast):
                hidden = self.encoder(input_ids=ids, attention_mask=seen).last_hidden_state.float()
            sums = torch.cat([torch.zeros_like(hidden[:, :1]), hidden.cumsum(1)], 1)

            def mean(row: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
                return (sums[row, end] - sums[row, start]) / (end - start)[:, None]

            every = torch.arange(len(items))
            asked = torch.tensor([one.asked for one in items]).T
            question = self.head["asked"](self.dropout(torch.cat([hidden[:, 0], mean(every, asked[0], asked[1])], 1)))
            none = self.head["none"](gelu(question)).squeeze(-1)
            row, start, end = torch.tensor([(r, a, b) for r, one in enumerate(items) for _, a, b in one.mentions], dtype=torch.long).reshape(-1, 3).T
            states = self.head["span"](self.dropout(torch.cat([hidden[row, start], hidden[row, end - 1], mean(row, start, end)], 1)))
            values = self.head["out"](gelu(states + question[row] + states * question[row])).squeeze(-1) - none[row]
            line_row, line_start, line_end = torch.tensor([(r, a, b) for r, one in enumerate(items) for a, b in one.lines], dtype=torch.long).reshape(-1, 3).T
            lines = self.head["line"](self.dropout(mean(line_row, line_start, line_end)))
            line_values = self.head["line_out"](gelu(lines + question[line_row] + lines * question[line_row])).squeeze(-1)
            return [(_by_term(values[row == r], one), line_values[line_row == r]) for r, one in enumerate(items)]

    return Pointer()


def _by_term(values: torch.Tensor, one: Item) -> torch.Tensor:
    """Log of the summed odds of each term's mentions, (terms,)."""
    import torch

    terms = torch.tensor([term for term, _, _ in one.mentions], dtype=torch.long)
    empty = torch.full((len(one.worth),), -torch.inf)
    most = empty.scatter_reduce(0, terms, values.detach(), "amax")
    odds = torch.zeros(len(one.worth)).index_add(0, terms, (values - most[terms]).exp())
    return torch.where(odds > 0, torch.where(odds > 0, most, 0.0) + odds.clamp_min(1e-9).log(), empty)


def loss_of(one: Item, terms: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the terms against "none of them"; several right ones share the probability, weighted by their worth. The lines beside it, where one is right."""
    import torch

    logs = torch.log_softmax(torch.cat([terms, torch.zeros(1)]), 0)
    worth = torch.where(torch.isfinite(terms), torch.tensor(one.worth), 0.0)
    weights = torch.cat([worth, torch.zeros(1) if bool((worth > 0).any()) else torch.ones(1)])
    chosen = weights > 0
    loss = -torch.logsumexp(logs[chosen] + weights[chosen].log(), 0)
    right = torch.tensor(one.antecedent, dtype=torch.bool)
    return loss - LINE_LOSS * torch.logsumexp(torch.log_softmax(lines, 0)[right], 0) if bool(right.any()) else loss
