"""Train the judge of candidate antecedents: a LoRA of a small language model, by a listwise loss over the candidates of each question.

    python -m scripts.training.judge examples/windows/*.jsonl --out runs/judge

Candidates and their order come from rankers that never saw the question's author; one fold of authors is kept out altogether, for the calibration of ranker and judge together
(``scripts.training.ranker --judge``). All branches of a question are packed behind its prompt with a block mask, as the serving engine decodes them. Continues a killed run.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.antecedent_judge import JUDGE_VERSION, NO, YES
from scripts.arguments import need, one_line_errors
from scripts.training import base as bases
from scripts.training.checkpoint import Checkpoint
from scripts.training.combined import points_of
from scripts.training.data import data_hash, load_samples
from scripts.training.init_adapter import adapter_hash, with_init_adapter
from scripts.training.judge_items import ItemMaker, JudgeSettings, branch_margins, listwise_loss
from scripts.training.judge_margins import first_right, held_out, judged, measured_by, terms_asked
from scripts.training.loop import TokenExample, answer_loss, collate, learning_rate_factor
from scripts.training.machine import prepare_machine
from scripts.training.ranker import crossed
from scripts.training.ranker_data import REPLY, Case, read_windows
from scripts.training.run import Examples, gate_metrics
from scripts.training.same_run import same_run
from scripts.training.settings import TrainSettings

#: What the gate learns from where the judge's adapter learns its task too: as scripts.train does it for the shipped gate.
GATE = TrainSettings(task="gate", validation=0.11, repeat=3, pair_limit=800)


def plan(found: Sequence[Case], held: int, settings: JudgeSettings) -> list[list[int]]:
    """Cases of each step."""
    if settings.epochs <= 0:
        return []
    rng = random.Random(settings.seed)
    steps: list[list[int]] = []
    for _ in range(math.ceil(settings.epochs)):
        taught = [i for i in one_of_each(found, rng) if found[i].fold != held]
        known = [i for i in taught if found[i].resolvable and found[i].grades.any()]
        unknown = [i for i in taught if not found[i].resolvable]
        epoch = known + rng.sample(unknown, min(len(unknown), int(len(known) * settings.unresolved_share)))
        rng.shuffle(epoch)
        steps += [epoch[i : i + settings.batch_size] for i in range(0, len(epoch), settings.batch_size)]
    wanted = int(len(steps) * settings.epochs / math.ceil(settings.epochs))
    return steps[: min(wanted, settings.max_steps or wanted)]


def one_of_each(found: Sequence[Case], rng: random.Random) -> list[int]:
    """Indices of all cases, but of a question that stands twice, with and without a reply, only one."""
    variants: dict[str, list[int]] = {}
    for index, case in enumerate(found):
        variants.setdefault(case.id.removesuffix(REPLY), []).append(index)
    return [rng.choice(some) for some in variants.values()]


def freeze_lowest(model: Any, layers: int) -> None:
    """The weights of the ``layers`` lowest layers are trained no more, so that no gradient is followed down to them."""
    for name, weight in model.named_parameters():
        if (found := re.search(r"\.layers\.(\d+)\.", name)) and int(found[1]) < layers:
            weight.requires_grad_(False)


def run(
    model: Any, steps: Sequence[Sequence[int]], maker: ItemMaker, settings: JudgeSettings, out: Path, answers: tuple[int, int], gate: Sequence[TokenExample] = (), pad: int = 0
) -> dict[str, float]:
    """Train in place; returns figures of the run. ``gate``: examples of the gate that take part in each step, so that one adapter learns both tasks."""
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
        items = sorted((maker.training(index, rng) for index in steps[step]), key=len)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in (items[i : i + settings.together] for i in range(0, len(items), settings.together)):
            some = [listwise_loss(m, item.worth) for m, item in zip(branch_margins(model, part, *answers), part, strict=True)]
            (torch.stack(some).sum() / len(items)).backward()
            losses += [float(loss.detach()) for loss in some]
        if gate:
            answer_loss(model, collate(rng.sample(gate, min(len(gate), settings.gate_batch)), pad, "cpu")).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        state["losses"].append(round(sum(losses) / len(losses), 4))
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


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for adapter, adapter.gguf, said.json and metrics.json.")] = Path("judge-out"),
    base: Annotated[str, typer.Option(help="GGUF file of the base model; empty: the packaged one.")] = "",
    held: Annotated[int, typer.Option(help="Fold of authors that is kept out of training; -1: none.")] = 2,
    epochs: Annotated[float, typer.Option(help="Passes over the questions; 0 only measures the adapter of --init-adapter.")] = 2.0,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 4e-4,
    init_adapter: Annotated[Path | None, typer.Option(help="Continue from this adapter: a folder, or a GGUF file such as the shipped one.")] = None,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0: never.")] = 0,
    frozen_layers: Annotated[int, typer.Option(help="So many of the lowest layers keep the adapter that they have: faster steps, for more questions in the same time.", min=0)] = 0,
    most: Annotated[int, typer.Option(help="Held questions that are measured at most; each takes half a second or more.")] = 1200,
    pointer: Annotated[Path | None, typer.Option(help="Folder that scripts.training.pointer wrote with the same files and seed: what it would ask about is judged too.")] = None,
    gate: Annotated[list[Path] | None, typer.Option(help="Files of the gate: one adapter learns both tasks.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Train the judge and measure it on the authors that it never saw."""
    windows = read_windows(files)
    pointed = measured_by(pointer, files, seed)[1] if pointer is not None else {}
    need("torch", "transformers", "peft", "gguf", "lightgbm", "sklearn")
    gguf = Path(base) if base else bases.packaged_gguf()
    if gguf.suffix != ".gguf" or not gguf.is_file():
        raise typer.BadParameter("the judge is measured as it serves, which takes a GGUF file", param_hint="--base")
    settings = JudgeSettings(epochs=epochs, max_steps=max_steps, learning_rate=lr, frozen_layers=frozen_layers, seed=seed)
    taught = load_samples(gate) if gate else None
    # A longer run goes on from a shorter one.
    facts = {"settings": {name: value for name, value in asdict(settings).items() if name != "max_steps"}, "data": data_hash(files), "base": gguf.name}
    same_run(out, facts | {"init_adapter": adapter_hash(init_adapter), "held_fold": held, "gate": data_hash(gate) if gate else None})

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from scripts.training import lora_gguf

    found, scored = crossed(windows, seed)
    prepare_machine(threads)
    torch.manual_seed(seed)
    loaded = bases.load_base(base)
    config = bases.base_config(loaded)
    model: Any = AutoModelForCausalLM.from_pretrained(str(loaded.folder), dtype=torch.float32)
    if init_adapter is not None:
        model = with_init_adapter(model, init_adapter, loaded, config, out / "initial")
    else:
        model = get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules="all-linear", task_type="CAUSAL_LM"))
    if frozen_layers >= config["num_hidden_layers"]:
        raise typer.BadParameter(f"the model has {config['num_hidden_layers']} layers", param_hint="--frozen-layers")
    freeze_lowest(model, frozen_layers)
    answers_to = (loaded.encode(YES)[0], loaded.encode(NO)[0])
    judging = Examples(taught, loaded, GATE) if taught else None
    maker = ItemMaker(found, scored.line_scores, scored.scores, loaded, settings)
    figures: dict[str, Any] = run(model, plan(found, held, settings), maker, settings, out, answers_to, judging.epoch(0) if judging else (), loaded.pad)
    if judging:
        figures["gate"] = gate_metrics(model, judging.validation, loaded, GATE)
    adapter = out / "adapter"
    model.save_pretrained(adapter)
    identity = {"base": loaded.name, "tokenizer_hash": loaded.tokenizer_hash, "shape": bases.identity_shape(config), "prompts": {"judge": JUDGE_VERSION}}
    (adapter / bases.IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    lora_gguf.convert(adapter, loaded.folder, out / "adapter.gguf")
    del model
    chosen = held_out(found, held, seed, most)
    points, weight = points_of(found, scored, pointed)
    asked = [terms_asked(scored.scores[i], points.get(found[i].id), weight) for i in chosen]
    answers = judged(gguf, out / "adapter.gguf", found, chosen, scored.line_scores, asked, threads)
    (out / "said.json").write_text(json.dumps(answers) + "\n", encoding="utf-8")
    figures |= {"held_fold": held, "seed": seed, "data_hash": data_hash(files), "held": first_right(found, chosen, scored.scores, answers) if chosen else None}
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
