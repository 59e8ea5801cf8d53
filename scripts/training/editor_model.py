"""The editor of short dialogues as a model that torch can train: the packaged encoder with the head of :mod:`core.dialogue_editor` over its states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.dialogue_editor import HEAD, MEETING
from core.dialogue_reading import GLUE, DialogueReading, edited, read_dialogue
from core.encoder import EncoderFile
from core.grounding import squeeze
from core.messages import Question
from scripts.training.machine import bfloat16_products

if TYPE_CHECKING:
    import torch

#: Width of the space in which phrases and gaps are judged.
WIDTH = 192


@dataclass(frozen=True, slots=True)
class Item:
    """One question, and the (phrase, gap, glue) of its edits that make the gold rewrite: several where a phrase stands twice."""

    reading: DialogueReading
    right: tuple[tuple[int, int, int], ...]


def item_of(question: Question, gold: str, file: EncoderFile) -> Item | None:
    """None where no edit makes ``gold``."""
    reading = read_dialogue(question, file)
    right = right_edits(question.text, gold, reading) if reading else ()
    return Item(reading, right) if reading and right else None


def right_edits(question: str, gold: str, reading: DialogueReading) -> tuple[tuple[int, int, int], ...]:
    """(phrase, gap, glue) of all edits of ``question`` that make ``gold``, white space and case apart."""
    phrases: dict[str, list[int]] = {}
    for number, phrase in enumerate(reading.phrases):
        phrases.setdefault(squeeze(phrase.text), []).append(number)
    wanted, found = squeeze(gold), []
    for number, gap in enumerate(reading.gaps):
        for glue, put_in in _put_in(squeeze(question[: gap.start]), squeeze(question[gap.end :]), wanted):
            found += [(one, number, glue) for one in phrases.get(put_in, ()) if squeeze(edited(question, gap, reading.phrases[one].text, glue)) == wanted]
    return tuple(found)


def _put_in(before: str, behind: str, wanted: str) -> list[tuple[int, str]]:
    """(glue, phrase) that would have to stand between ``before`` and ``behind``, all squeezed."""
    if not (wanted.startswith(before) and wanted.endswith(behind)) or len(before) + len(behind) >= len(wanted):
        return []
    between = wanted[len(before) : len(wanted) - len(behind)]
    fits = [(number, a, b) for number, (a, b) in enumerate(GLUE) if between.startswith(a) and between.endswith(b) and len(a) + len(b) < len(between)]
    return [(number, between[len(a) : len(between) - len(b)]) for number, a, b in fits]


def make_model(encoder: Any, dropout: float, autocast: bool = False) -> Any:
    """``forward(items)`` gives for each item the log-odds of its edits (phrases, gaps, glues), up to a constant. ``autocast``: the encoder multiplies in bfloat16."""
    import torch
    from torch.nn import Dropout, Linear
    from torch.nn.functional import gelu

    for part in encoder.model.modules():
        if isinstance(part, Dropout):
            part.p = dropout
    hidden = encoder.model.config.hidden_size
    sizes = {
        "phrase": (3 * hidden, WIDTH), "gap": (6 * hidden, WIDTH), "phrase_out": (WIDTH, 1), "gap_out": (WIDTH, 1), "glue": (WIDTH, len(GLUE)),
        "phrase_meets": (WIDTH, MEETING * len(GLUE)), "gap_meets": (WIDTH, MEETING),
    }  # fmt: skip

    class Editor(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder.model
            self.head = torch.nn.ModuleDict({name: Linear(*sizes[name]) for name in HEAD})

        def forward(self, items: Sequence[Item]) -> list[torch.Tensor]:
            length = max(len(one.reading.ids) for one in items)
            ids = torch.tensor([[*one.reading.ids, *[encoder.pad] * (length - len(one.reading.ids))] for one in items])
            seen = torch.tensor([[1] * len(one.reading.ids) + [0] * (length - len(one.reading.ids)) for one in items])
            with bfloat16_products(autocast):
                states = self.encoder(input_ids=ids, attention_mask=seen).last_hidden_state.float()
            return [self.odds(one.reading, row) for one, row in zip(items, states, strict=True)]

        def odds(self, reading: DialogueReading, states: torch.Tensor) -> torch.Tensor:
            sums = torch.cat([torch.zeros_like(states[:1]), states.cumsum(0)])
            first, last = torch.tensor([(one.first, one.last) for one in reading.phrases]).T
            mean = (sums[last + 1] - sums[first]) / (last + 1 - first)[:, None]
            phrase = gelu(self.head["phrase"](self.dropped(torch.cat([states[first], states[last], mean], 1))))
            start, after = torch.tensor([(one.first, one.after) for one in reading.gaps]).T
            inside = (sums[after] - sums[start]) / (after - start).clamp_min(1)[:, None]
            around = [states[start - 1], states[start], states[after - 1], states[after], inside, states[:1].expand(len(start), -1)]
            gap = gelu(self.head["gap"](self.dropped(torch.cat(around, 1))))
            meets = self.head["phrase_meets"](phrase).reshape(len(phrase), len(GLUE), MEETING)
            together = torch.einsum("pgd,qd->pqg", meets, self.head["gap_meets"](gap)) / math.sqrt(MEETING)
            return together + self.head["phrase_out"](phrase)[:, :, None] + self.head["gap_out"](gap)[None] + self.head["glue"](phrase)[:, None, :]

        def dropped(self, states: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(states, dropout, self.training)

    return Editor()


def loss_of(one: Item, odds: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of all edits; those that make the gold rewrite share the probability."""
    import torch

    phrase, gap, glue = torch.tensor(one.right).T
    return torch.logsumexp(odds.flatten(), 0) - torch.logsumexp(odds[phrase, gap, glue], 0)
