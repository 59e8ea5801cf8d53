"""The model card (README.md) of a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.resolver_prompts import DIALOGUE_PROMPTS
from scripts.training.settings import TrainSettings

_PURPOSES = {
    "gate": "judges whether a group-chat question needs resolution",
    "rewrite": "rewrites a group-chat question so that it stands alone",
    "both": "judges and rewrites group-chat questions",
}


def write_card(out: Path, settings: TrainSettings, metrics: dict[str, Any]) -> None:
    """Write ``out/README.md`` from what the run recorded."""
    (out / "README.md").write_text("\n".join([*_head(settings, metrics), *_data(metrics), *_settings(metrics), *_figures(metrics), *_limits(settings)]) + "\n", encoding="utf-8")


def _head(settings: TrainSettings, metrics: dict[str, Any]) -> list[str]:
    kind = "LoRA adapter" if settings.method == "lora" else "fully fine-tuned model"
    return [
        "---",
        f"base_model: {metrics['base']}",
        "library_name: peft",
        "language: [zh, en]",
        "tags: [coreference, group-chat, lora]",
        "---",
        f"# doujie {settings.task} ({metrics['data_hash']})",
        "",
        f"A {kind} on `{metrics['base']}` that {_PURPOSES[settings.task]}.",
        f"Prompts: `{settings.gate_prompt}`, `{settings.rewrite_prompt}` (core/prompts.py, core/resolver_prompts.py).",
        "",
        "Licence: the base model's terms (Gemma Terms of Use for Gemma) hold for the merged weights; the adapter is under the project's licence where its data allow it.",
        "",
    ]


def _data(metrics: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | `{digest}` |" for name, digest in metrics["data"].items()]
    counted = f"Examples in the first epoch: {metrics['examples']}; too long and left out: {metrics['too_long']}."
    return ["## Data", "", "| file | SHA-256 (first 16) |", "|---|---|", *rows, "", counted, ""]


def _settings(metrics: dict[str, Any]) -> list[str]:
    shown = dict(metrics["settings"])
    loop = shown.pop("loop")
    return ["## Settings", "", "| setting | value |", "|---|---|", *[f"| {key} | {value} |" for key, value in {**shown, **loop}.items()], ""]


def _figures(metrics: dict[str, Any]) -> list[str]:
    loss, validation = metrics["training_loss"], metrics.get("validation_loss") or {}
    rows = [f"| training loss, first and last 10 steps | {_shown(loss['first'])} | {_shown(loss['last'])} |"]
    if validation:
        rows.append(f"| validation loss ({metrics['validation_examples']} examples) | {_shown(validation['before'])} | {_shown(validation['after'])} |")
    gate, gate_before = metrics.get("gate") or {}, metrics.get("gate_before") or {}
    rows += [f"| gate: {name} | {_shown(gate_before.get(name))} | {_shown(value)} |" for name, value in gate.items()]
    after = ["The gate's figures are of the validation split at margin 0, before calibration.", ""] if gate else []
    trained = f"{metrics['steps']} steps, {metrics['tokens']} tokens, {metrics['seconds']} s; kept: step {metrics['best_step']}."
    return ["## Figures", "", "| | before | after |", "|---|---|---|", *rows, "", *after, trained, ""]


def _limits(settings: TrainSettings) -> list[str]:
    fits = "`python -m scripts.training.dialogue`" if settings.rewrite_prompt in DIALOGUE_PROMPTS else "`python -m scripts.train --head` (of the gate)"
    return [
        "## Calibration and limits",
        "",
        f"The answer's log-odds are not a probability: fit the calibration with {fits}, on the back end that serves.",
        "Groups that talk about other things than those of the training data should be measured first (`python -m scripts.evaluate`).",
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
