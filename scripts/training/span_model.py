"""What torch trains to point at antecedents over the states of any model: items, the head of :mod:`core.span_head`, and the loss.

A candidate is the states of its first and last token and their mean, compared with the question's; what stands several times counts with all its mentions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.training.ranker_data import Case

if TYPE_CHECKING:
    import torch

#: Worth of a candidate by its grade: one that holds only part of what gold adds is worth less.
GRADE_WORTH = (0.0, 0.6, 0.85, 1.0)
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


def item_of(case: Case, ids: Sequence[int], mentions: Sequence[tuple[int, int, int]], lines: Sequence[tuple[int, tuple[int, int]]], asked: tuple[int, int]) -> Item:
    """``lines``: (index of the line, its tokens)."""
    worth = tuple(GRADE_WORTH[grade] if case.resolvable else 0.0 for grade in case.grades)
    antecedent = tuple(bool(case.antecedent[index]) and case.resolvable for index, _ in lines)
    return Item(tuple(ids), tuple(mentions), tuple(span for _, span in lines), asked, worth, antecedent)


def make_head(hidden: int, dropout: float) -> Any:
    """``forward(items, hidden (n, L, h), summary (n, h))`` gives for each item (log-odds of its terms (k,), -inf for those not shown, log-odds of its lines (m,)), "none" at 0.

    Its layers bear the names of :data:`core.span_head.HEAD`, and "line" and "line_out".
    """
    import torch
    from torch.nn import Linear
    from torch.nn.functional import gelu

    class Head(torch.nn.ModuleDict):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__({
                "span": Linear(3 * hidden, WIDTH), "asked": Linear(2 * hidden, WIDTH), "out": Linear(WIDTH, 1), "none": Linear(WIDTH, 1), "line": Linear(hidden, WIDTH),
                "line_out": Linear(WIDTH, 1),
            })  # fmt: skip

        def forward(self, items: Sequence[Item], hidden: torch.Tensor, summary: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            def dropped(states: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.dropout(states, dropout, self.training) if dropout else states

            sums = torch.cat([torch.zeros_like(hidden[:, :1]), hidden.cumsum(1)], 1)

            def mean(row: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
                return (sums[row, end] - sums[row, start]) / (end - start)[:, None]

            every = torch.arange(len(items))
            asked = torch.tensor([one.asked for one in items]).T
            question = self["asked"](dropped(torch.cat([summary, mean(every, asked[0], asked[1])], 1)))
            none = self["none"](gelu(question)).squeeze(-1)
            row, start, end = torch.tensor([(r, a, b) for r, one in enumerate(items) for _, a, b in one.mentions], dtype=torch.long).reshape(-1, 3).T
            states = self["span"](dropped(torch.cat([hidden[row, start], hidden[row, end - 1], mean(row, start, end)], 1)))
            values = self["out"](gelu(states + question[row] + states * question[row])).squeeze(-1) - none[row]
            line_row, line_start, line_end = torch.tensor([(r, a, b) for r, one in enumerate(items) for a, b in one.lines], dtype=torch.long).reshape(-1, 3).T
            lines = self["line"](dropped(mean(line_row, line_start, line_end)))
            line_values = self["line_out"](gelu(lines + question[line_row] + lines * question[line_row])).squeeze(-1)
            return [(_by_term(values[row == r], one), line_values[line_row == r]) for r, one in enumerate(items)]

    return Head()


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
