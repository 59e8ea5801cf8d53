"""Train the judge of candidate antecedents: a LoRA of a small language model, by a listwise loss over the candidates of each question.

    python -m scripts.training.judge examples/windows/*.jsonl --out runs/judge

Candidates and their order come from rankers that never saw the question's author; one fold of authors is kept out altogether, for the calibration of ranker and judge together
(``scripts.training.ranker --judge``). All branches of a question are packed behind its prompt with a block mask, as the serving engine decodes them. Continues a killed run.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from core.antecedent_features import Array
from core.antecedent_judge import CANDIDATES, JUDGE_VERSION, LINES, NO, YES, branch, judge_prompt, shortlist
from scripts.training import base as bases
from scripts.training.base import Base
from scripts.training.data import data_hash
from scripts.training.loop import Checkpoint, learning_rate_factor
from scripts.training.ranker import out_of_fold
from scripts.training.ranker_data import Case, cases, read_windows, word_frequency

if TYPE_CHECKING:
    import torch

#: Worth of a candidate by its grade: one that holds only part of what gold adds is worth less.
GRADE_WORTH = (0.0, 0.6, 0.85, 1.0)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """``candidates`` and ``strangers``: the best of the ranker and random others in one question; ``unresolved_share``: questions without antecedent for each one that has one."""

    epochs: float = 2.0
    batch_size: int = 8
    learning_rate: float = 4e-4
    warmup_steps: int = 10
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0  # torch draws its random numbers on one core: dropout of every projection costs more than the forward pass
    candidates: int = 5
    strangers: int = 2
    unresolved_share: float = 0.2
    seed: int = 1
    save_every: int = 25


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


def margins(model: Any, items: Sequence[Item], yes: int, no: int) -> list[torch.Tensor]:
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


def plan(found: Sequence[Case], held: int, settings: JudgeSettings) -> list[list[int]]:
    """Cases of each step."""
    if settings.epochs <= 0:
        return []
    rng = random.Random(settings.seed)
    taught = [i for i, case in enumerate(found) if case.fold != held]
    known = [i for i in taught if found[i].resolvable and found[i].grades.any()]
    unknown = [i for i in taught if not found[i].resolvable]
    steps: list[list[int]] = []
    for _ in range(math.ceil(settings.epochs)):
        epoch = known + rng.sample(unknown, min(len(unknown), int(len(known) * settings.unresolved_share)))
        rng.shuffle(epoch)
        steps += [epoch[i : i + settings.batch_size] for i in range(0, len(epoch), settings.batch_size)]
    return steps[: int(len(steps) * settings.epochs / math.ceil(settings.epochs))]


def run(model: Any, steps: Sequence[Sequence[int]], maker: ItemMaker, settings: JudgeSettings, out: Path, yes: int, no: int) -> dict[str, float]:
    """Train in place; returns figures of the run."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    checkpoint = Checkpoint(out)
    state = checkpoint.load(model, optimizer) or {"step": 0, "losses": [], "tokens": 0, "seconds": 0.0}
    started, first = time.monotonic(), float(state["seconds"])
    model.train()
    for step in range(int(state["step"]), len(steps)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * max(0.05, learning_rate_factor(step, len(steps), settings.warmup_steps, "cosine"))
        rng = random.Random(f"{settings.seed}-{step}")
        items = [maker.training(index, rng) for index in steps[step]]
        loss = torch.stack([listwise_loss(m, item.worth) for m, item in zip(margins(model, items, yes, no), items, strict=True)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        state["losses"].append(round(float(loss.detach()), 4))
        state |= {"step": step + 1, "tokens": state["tokens"] + sum(map(len, items)), "seconds": first + time.monotonic() - started}
        if (step + 1) % 10 == 0:
            left = state["seconds"] / (step + 1) * (len(steps) - step - 1)
            typer.echo(f"{step + 1}/{len(steps)} loss {np.mean(state['losses'][-20:]):.3f}, {state['tokens'] / state['seconds']:.0f} tokens/s, {left / 60:.0f} min left", err=True)
        if (step + 1) % settings.save_every == 0 or step + 1 == len(steps):
            checkpoint.save(model, optimizer, state)
    figures = {"steps": len(steps), "seconds": round(float(state["seconds"]), 1), "tokens": state["tokens"]}
    if steps:
        figures |= {"loss_first": float(np.mean(state["losses"][:20])), "loss_last": float(np.mean(state["losses"][-20:]))}
    return figures


def judged(
    gguf: Path, adapter: Path, found: Sequence[Case], chosen: Sequence[int], line_scores: Sequence[Array], scores: Sequence[Array], threads: int = 0
) -> dict[str, list[float]]:
    """Margins of the shortlists of the ``chosen`` cases, by id, as the resolver will see them: by llama.cpp on the quantised model."""
    from core.gates.llama_engine import LlamaEngine

    engine = LlamaEngine(gguf, adapter, threads=threads)
    try:
        yes, no = engine.tokenize(YES)[0], engine.tokenize(NO)[0]
        answers: dict[str, list[float]] = {}
        for number, index in enumerate(chosen, 1):
            case = found[index]
            prompt = engine.tokenize(judge_prompt(case.scene, line_scores[index]), start=True)
            branches = [engine.tokenize(branch(case.terms[t])) for t in shortlist(scores[index])]
            answers[case.id] = [round(a - b, 4) for a, b in engine.branch_logprobs(prompt, branches, [yes, no])]
            if number % 50 == 0:
                typer.echo(f"judged {number}/{len(chosen)}", err=True)
        return answers
    finally:
        engine.close()


def held_out(found: Sequence[Case], held: int, seed: int) -> list[int]:
    """Cases of the held fold: all that have an antecedent, a third of the others (they count less, and cost as much)."""
    rng = random.Random(seed)
    return [i for i, case in enumerate(found) if case.fold == held and (case.resolvable or rng.random() < 1 / 3)]


def first_right(found: Sequence[Case], chosen: Sequence[int], scores: Sequence[Array], answers: dict[str, list[float]]) -> dict[str, float]:
    """Share of resolvable questions whose first candidate is right: by the ranker, by the judge among the shortlist, and the shortlist's upper bound."""
    some = [i for i in chosen if found[i].resolvable]
    lists = [shortlist(scores[i]) for i in some]
    return {
        "questions": len(some),
        "ranker": float(np.mean([found[i].grades[order[0]] >= 1 for i, order in zip(some, lists, strict=True)])),
        "judge": float(np.mean([found[i].grades[order[int(np.argmax(answers[found[i].id]))]] >= 1 for i, order in zip(some, lists, strict=True)])),
        f"among_{CANDIDATES}": float(np.mean([(found[i].grades[list(order)] >= 1).any() for i, order in zip(some, lists, strict=True)])),
    }


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for adapter, adapter.gguf, margins.json and metrics.json.")] = Path("judge-out"),
    base: Annotated[str, typer.Option(help="GGUF file of the base model; empty: the packaged one.")] = "",
    held: Annotated[int, typer.Option(help="Fold of authors that is kept out of training; -1: none.")] = 2,
    epochs: Annotated[float, typer.Option(help="Passes over the questions; 0 only measures the adapter of --init-adapter.")] = 2.0,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 4e-4,
    init_adapter: Annotated[Path | None, typer.Option(help="Continue from this adapter folder.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Train the judge and measure it on the authors that it never saw."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.ranker import rarity_table
    from scripts.training import lora_gguf

    gguf = Path(base) if base else bases.packaged_gguf()
    if gguf.suffix != ".gguf" or not gguf.is_file():
        raise typer.BadParameter("the judge is measured as it serves, which takes a GGUF file", param_hint="--base")
    settings = JudgeSettings(epochs=epochs, learning_rate=lr, seed=seed)
    windows = read_windows(files)
    found = cases(windows)
    scored = out_of_fold(found, np.array([case.fold for case in found]), rarity_table(word_frequency(windows), len(windows)), seed)
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    loaded = bases.load_base(base)
    config = bases.base_config(loaded)
    model: Any = AutoModelForCausalLM.from_pretrained(str(loaded.folder), dtype=torch.float32)
    if init_adapter is not None:
        bases.check_adapter(init_adapter, loaded, config)
        model = PeftModel.from_pretrained(model, str(init_adapter), is_trainable=True)
    else:
        model = get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules="all-linear", task_type="CAUSAL_LM"))
    yes, no = loaded.encode(YES)[0], loaded.encode(NO)[0]
    maker = ItemMaker(found, scored.line_scores, scored.scores, loaded, settings)
    figures: dict[str, Any] = run(model, plan(found, held, settings), maker, settings, out, yes, no)
    adapter = out / "adapter"
    model.save_pretrained(adapter)
    identity = {"base": loaded.name, "tokenizer_hash": loaded.tokenizer_hash, "shape": bases.identity_shape(config), "prompts": {"judge": JUDGE_VERSION}}
    (adapter / bases.IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    lora_gguf.convert(adapter, loaded.folder, out / "adapter.gguf")
    del model
    chosen = held_out(found, held, seed)
    answers = judged(gguf, out / "adapter.gguf", found, chosen, scored.line_scores, scored.scores, threads)
    (out / "margins.json").write_text(json.dumps(answers) + "\n", encoding="utf-8")
    figures |= {"held_fold": held, "seed": seed, "data_hash": data_hash(files), "held": first_right(found, chosen, scored.scores, answers) if chosen else None}
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
