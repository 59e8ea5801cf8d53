"""What the judge of candidates learns from: a question's prompt with its branches, packed as the serving engine decodes them, and the loss over them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.antecedent_features import Array
from core.antecedent_judge import LINES, branch, judge_prompt
from scripts.training.base import Base
from scripts.training.ranker_data import Case

if TYPE_CHECKING:
    import torch

#: Worth of a candidate by its grade: one that holds only part of what gold adds is worth less.
GRADE_WORTH = (0.0, 0.6, 0.85, 1.0)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """``candidates`` and ``strangers``: the best of the ranker and random others in one question; ``unresolved_share``: questions without antecedent for each one that has one;
    ``together``: questions of like length that go through the model at once, so that little is padded; ``gate_batch``: examples of the gate in a step, where it learns both tasks;
    ``frozen_layers``: the lowest ones keep the adapter that they have; ``max_steps`` 0: as many as ``epochs`` gives."""

    epochs: float = 2.0
    batch_size: int = 16
    together: int = 8
    learning_rate: float = 4e-4
    max_steps: int = 0
    warmup_steps: int = 10
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0  # torch draws its random numbers on one core: dropout of every projection costs more than the forward pass
    candidates: int = 6
    strangers: int = 2
    unresolved_share: float = 0.2
    seed: int = 1
    save_every: int = 25
    gate_batch: int = 24
    frozen_layers: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One question as token ids: the prompt, its branches, and the worth of each (0: wrong)."""

    prompt: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    worth: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.branches))


class ItemMaker:
    """Makes training items of cases; ``line_scores`` and ``scores`` are out of fold."""

    def __init__(self, found: Sequence[Case], line_scores: Sequence[Array], scores: Sequence[Array], base: Base, settings: JudgeSettings) -> None:
        self._found, self._line_scores, self._scores, self._settings = found, line_scores, scores, settings
        self._encode, self._start = base.encode, base.start

    def training(self, index: int, rng: random.Random) -> Item:
        """Shuffled candidates with a right one among them (where there is one), a varying number of lines."""
        case, order = self._found[index], np.argsort(-self._scores[index], kind="stable").tolist()
        chosen = order[: self._settings.candidates]
        rest = order[self._settings.candidates :]
        chosen += rng.sample(rest, min(len(rest), self._settings.strangers))
        right = [t for t in order if case.grades[t] >= 1]
        if right and not any(case.grades[t] >= 1 for t in chosen):
            chosen[-1] = max(right, key=lambda t: (case.grades[t], self._scores[index][t]))
        rng.shuffle(chosen)
        return self._item(index, chosen, rng.choice((LINES - 2, LINES, LINES, LINES + 2)))

    def _item(self, index: int, chosen: Sequence[int], lines: int) -> Item:
        case = self._found[index]
        prompt = self._start + self._encode(judge_prompt(case.scene, self._line_scores[index], lines))
        return Item(prompt, tuple(self._encode(branch(case.terms[t])) for t in chosen), tuple(GRADE_WORTH[case.grades[t]] for t in chosen))


def pack(items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]]]:
    """(ids, positions (n, L), additive mask (n, 1, L, L), index of the last token of each branch): branches see their prompt and themselves."""
    import torch

    count, length = len(items), max(map(len, items))
    ids, positions = torch.zeros(count, length, dtype=torch.long), torch.zeros(count, length, dtype=torch.long)
    seen = torch.eye(length, dtype=torch.bool).repeat(count, 1, 1)  # padding sees itself: a row that sees nothing would be NaN
    last: list[list[int]] = []
    for row, item in enumerate(items):
        head = len(item.prompt)
        ids[row, :head], positions[row, :head] = torch.tensor(item.prompt), torch.arange(head)
        seen[row, :head, :head] = torch.ones(head, head).tril().bool()
        at, ends = head, []
        for tokens in item.branches:
            end = at + len(tokens)
            ids[row, at:end], positions[row, at:end] = torch.tensor(tokens), torch.arange(head, head + len(tokens))
            seen[row, at:end, :head] = True
            seen[row, at:end, at:end] = torch.ones(len(tokens), len(tokens)).tril().bool()
            at = end
            ends.append(end - 1)
        last.append(ends)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    return ids, positions, mask, last


def branch_margins(model: Any, items: Sequence[Item], yes: int, no: int) -> list[torch.Tensor]:
    """Logit of yes minus logit of no behind each branch, a tensor a question."""
    ids, positions, mask, last = pack(items)
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    both = {"full_attention": mask, "sliding_attention": mask} if getattr(causal.config, "layer_types", None) else mask
    hidden = causal.model(input_ids=ids, position_ids=positions, attention_mask=both, use_cache=False).last_hidden_state
    weight = causal.get_output_embeddings().weight
    direction = weight[yes] - weight[no]
    return [hidden[row, ends] @ direction for row, ends in enumerate(last)]


def listwise_loss(margin: torch.Tensor, worth: Sequence[float]) -> torch.Tensor:
    """Cross-entropy of the candidates against "none of them" at margin 0; several right ones share the probability, weighted by their worth."""
    import torch

    logs = torch.log_softmax(torch.cat([margin, torch.zeros(1)]), 0)
    weights = torch.tensor([*worth, 0.0 if any(worth) else 1.0])
    return -torch.logsumexp(logs[weights > 0] + weights[weights > 0].log(), 0)
