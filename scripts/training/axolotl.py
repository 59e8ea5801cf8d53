"""A training as an axolotl configuration (YAML), for a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from scripts.training.data import load_samples
from scripts.training.settings import TrainSettings

#: A record's prompt as :func:`scripts.training.data.load_samples` makes it; axolotl's own ``alpaca`` would put other words around it.
_TYPE = (
    "    type:",
    "      field_instruction: instruction",
    "      field_input: input",
    "      field_output: output",
    r'      format: "{instruction}\n{input}\n"',
    r'      no_input_format: "{instruction}\n"',
)


def axolotl(settings: TrainSettings, base: str, data: Sequence[Path], out: Path) -> str:
    """The equal run; the data must be alpaca JSON, as ``scripts.export --format alpaca`` writes it (a file that is not here may lie on the cluster).

    :raises InputError: for data of another form, and for settings that axolotl does not have.
    """
    for path in data:
        if path.exists() and not all(sample.prompt for sample in load_samples([path])):
            raise InputError(str(path), "is no alpaca JSON, which is what axolotl reads", "Make it: python -m scripts.export --format alpaca")
    loop = settings.loop
    if loop.label_smoothing:
        raise InputError("--label-smoothing", "axolotl has none", "Leave it out for --emit-axolotl.")
    lines = [
        f"base_model: {base}",
        "load_in_8bit: false",
        "load_in_4bit: false",
        "strict: false",
        "datasets:",
        *[line for path in data for line in (f"  - path: {path}", *_TYPE)],
        f"val_set_size: {settings.validation}",
        f"output_dir: {out}",
        f"sequence_len: {settings.sequence}",
        "sample_packing: false",
        "pad_to_sequence_len: false",
        "train_on_inputs: false",
        *_adapter(settings),
        f"gradient_accumulation_steps: {loop.accumulation}",
        f"micro_batch_size: {loop.batch_size}",
        f"num_epochs: {loop.epochs}",
        *([f"max_steps: {loop.max_steps}"] if loop.max_steps else []),
        "optimizer: adamw_torch",
        f"lr_scheduler: {loop.schedule}",
        f"learning_rate: {loop.learning_rate}",
        f"warmup_steps: {loop.warmup_steps}",
        f"weight_decay: {loop.weight_decay}",
        f"max_grad_norm: {loop.grad_clip}",
        *([f"loraplus_lr_ratio: {loop.loraplus_ratio}"] if loop.loraplus_ratio else []),
        f"bf16: {'true' if settings.dtype == 'bfloat16' else 'false'}",
        f"gradient_checkpointing: {'true' if settings.gradient_checkpointing else 'false'}",
        f"seed: {loop.seed}",
        *_steps(settings),
        "logging_steps: 1",
    ]
    return "\n".join(lines) + "\n"


def _adapter(settings: TrainSettings) -> list[str]:
    if settings.method == "full":
        return []
    if settings.alpha != int(settings.alpha):
        raise InputError("--alpha", f"{settings.alpha:g} cannot be used: axolotl takes whole numbers", "Use a whole number for --emit-axolotl.")
    targets = settings.modules()
    chosen = ["lora_target_linear: true"] if targets == "all-linear" else ["lora_target_modules:", *[f"  - {name}" for name in targets]]
    flags = [f"peft_use_{name}: true" for name, wanted in (("rslora", settings.rslora), ("dora", settings.dora)) if wanted]
    return ["adapter: lora", f"lora_r: {settings.rank}", f"lora_alpha: {int(settings.alpha)}", f"lora_dropout: {settings.dropout}", *chosen, *flags]


def _steps(settings: TrainSettings) -> list[str]:
    """When to save and to evaluate. The best weights are kept at the end of early stopping, which needs a save at evaluations alone."""
    save, evaluate = settings.loop.save_every, settings.loop.eval_every
    if settings.validation and settings.loop.patience and evaluate:
        return [f"save_steps: {max(1, round(save / evaluate)) * evaluate}", f"eval_steps: {evaluate}", f"early_stopping_patience: {settings.loop.patience}"]
    return [f"save_steps: {save}" if save else "save_strategy: 'no'"]
