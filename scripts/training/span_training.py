"""The training that pointer and reader share: which questions in which order, and the steps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import typer

from core.antecedent_features import Array
from core.errors import InputError
from core.pointer_reading import LINES
from scripts.training.asked_again import second_cases
from scripts.training.constructed import constructed, shown_lines
from scripts.training.ranker_data import REPLY, Case, fold_of, word_frequency
from scripts.training.span_model import Item, loss_of

#: Questions that go through the model at once, sorted by length, so that little is padded.
TOGETHER = 8
CONSTRUCTED_HELP: Final = "So many steps first of questions made from messages that name a thing again, the name taken out."


@dataclass(frozen=True, slots=True)
class SpanSettings:
    """``constructed``: so many steps of constructed questions come first (:mod:`scripts.training.constructed`); ``head_rate``: the head learns so many times as fast;
    ``unresolved_share``: questions without antecedent for each one that has one; ``asked_again``: questions asked again for each that is not
    (:mod:`scripts.training.asked_again`); ``autocast``: see :func:`scripts.training.machine.bfloat16_products`."""

    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 1.2e-4
    head_rate: float = 5.0
    weight_decay: float = 0.01
    dropout: float = 0.1
    unresolved_share: float = 0.25
    save_every: int = 50
    seed: int = 1
    autocast: bool = False
    constructed: int = 0
    asked_again: float = 0.0


@dataclass(frozen=True, slots=True)
class Material:
    """Cases with the scores of their lines, and the indices of those that each step teaches."""

    cases: list[Case]
    line_scores: list[Array]
    steps: list[list[int]]


def constructed_first(found: Sequence[Case], line_scores: Sequence[Array], windows: Sequence[dict[str, Any]], held: int, settings: SpanSettings) -> Material:
    """``found`` with constructed questions behind it, and the steps that teach these, made anew in every pass; questions without an antecedent are those of ``found``."""
    if not settings.constructed:
        return Material(list(found), list(line_scores), [])
    rng = random.Random(settings.seed)
    taught = [window for window in windows if fold_of(str(window["id"])) != held]
    frequency = word_frequency(windows)
    unknown = [index for index, case in enumerate(found) if case.fold != held and not case.resolvable]
    every, scores, steps = list(found), list(line_scores), list[list[int]]()
    while len(steps) < settings.constructed:
        made = constructed(taught, frequency, rng.randrange(2**31))
        if not made:
            raise InputError("--constructed", "no message of these windows names a thing again", "Give more windows, or leave --constructed out.")
        known = list(range(len(every), len(every) + len(made)))
        every += made
        scores += [shown_lines(case, rng) for case in made]
        steps += _shuffled(known, unknown, settings, rng)
    return Material(every, scores, steps[: settings.constructed])


def plan(found: Sequence[Case], held: int, settings: SpanSettings, left_out: Collection[str] = ()) -> list[list[int]]:
    """Cases of each step; of a question that stands twice, with and without a reply, one in each pass. ``left_out``: ids of windows."""
    rng = random.Random(settings.seed)
    variants: dict[str, list[int]] = {}
    for index, case in enumerate(found):
        if case.fold != held and case.id.partition("#")[0] not in left_out:
            variants.setdefault(case.id.removesuffix(REPLY), []).append(index)
    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        taught = [rng.choice(some) for some in variants.values()]
        known = [i for i in taught if found[i].resolvable and found[i].grades.any()]
        unknown = [i for i in taught if not found[i].resolvable]
        steps += _shuffled(known, unknown, settings, rng)
    return steps


def with_asked_again(material: Material, found: Sequence[Case], held: int, settings: SpanSettings, steps: Sequence[Sequence[int]]) -> Material:
    """``steps``, which teach ``found``, behind those of ``material``, with questions asked again put in at random places."""
    cases, scores = list(material.cases), list(material.line_scores)
    first = [index for step in steps for index in step]
    rng = random.Random(f"{settings.seed}-again")
    if settings.asked_again and first:
        made = second_cases(found, held, settings.seed)
        again = list(range(len(cases), len(cases) + len(made)))
        cases += [case for _, case in made]
        scores += [scores[index] for index, _ in made]
        wanted = round(len(first) * settings.asked_again) if made else 0
        chosen = [one for _ in range(-(-wanted // max(1, len(again)))) for one in rng.sample(again, len(again))][:wanted]
        order = sorted([*((index / len(first), one) for index, one in enumerate(first)), *((rng.random(), one) for one in chosen)])
        first = [one for _, one in order]
    size = settings.batch_size
    return Material(cases, scores, [*material.steps, *(first[i : i + size] for i in range(0, len(first), size))])


def _shuffled(known: Sequence[int], unknown: Sequence[int], settings: SpanSettings, rng: random.Random) -> list[list[int]]:
    """The steps of one pass."""
    epoch = [*known, *rng.sample(unknown, min(len(unknown), int(len(known) * settings.unresolved_share)))]
    rng.shuffle(epoch)
    return [epoch[i : i + settings.batch_size] for i in range(0, len(epoch), settings.batch_size)]


def teach(model: Any, steps: Sequence[Sequence[int]], make: Callable[[int, int], Item], settings: SpanSettings, out: Path) -> dict[str, float]:
    """Train in place; returns figures of the run. ``make``: (case, lines) -> Item. ``model.head`` is what learns faster."""
    import torch

    from scripts.training.checkpoint import Checkpoint
    from scripts.training.loop import learning_rate_factor

    layers = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    groups = [{"params": layers, "factor": 1.0}, {"params": list(model.head.parameters()), "factor": settings.head_rate}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    checkpoint = Checkpoint(out)
    state = checkpoint.load(model, optimizer) or {"step": 0, "losses": [], "seconds": 0.0}
    started, first = time.monotonic(), float(state["seconds"])
    model.train()
    for step in range(int(state["step"]), len(steps)):
        factor = max(0.02, learning_rate_factor(step, len(steps), len(steps) // 20, "cosine"))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * factor
        rng = random.Random(f"{settings.seed}-{step}")
        items = sorted((make(index, rng.choice((LINES - 3, LINES, LINES))) for index in steps[step]), key=lambda one: len(one.ids))
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in (items[i : i + TOGETHER] for i in range(0, len(items), TOGETHER)):
            some = [loss_of(one, *scores) for one, scores in zip(part, model(part), strict=True)]
            (torch.stack(some).sum() / len(items)).backward()
            losses += [loss.item() for loss in some]
        torch.nn.utils.clip_grad_norm_(layers, 1.0)
        optimizer.step()
        state["losses"].append(round(sum(losses) / len(losses), 4))
        state |= {"step": step + 1, "seconds": first + time.monotonic() - started}
        if (step + 1) % 20 == 0:
            left = state["seconds"] / (step + 1) * (len(steps) - step - 1)
            typer.echo(f"{step + 1}/{len(steps)} loss {np.mean(state['losses'][-20:]):.3f}, {left / 60:.0f} min left", err=True)
        if (step + 1) % settings.save_every == 0 or step + 1 == len(steps):
            checkpoint.save(model, optimizer, state)
    figures = {"steps": len(steps), "seconds": round(float(state["seconds"]), 1)}
    if steps:
        figures |= {"loss_first": float(np.mean(state["losses"][:20])), "loss_last": float(np.mean(state["losses"][-20:]))}
    return figures
