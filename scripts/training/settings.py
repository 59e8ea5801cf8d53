"""Settings of a training run and their named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any

from core.errors import InputError
from core.prompts import GATE_PROMPTS
from core.resolver_prompts import DEFAULT_REWRITE_PROMPT, REWRITE_PROMPTS
from scripts.training.loop import LoopSettings

TASKS = ("gate", "rewrite", "both")
METHODS = ("lora", "full")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """All that decides a run, apart from the files. ``targets``: all-linear, attention, or module names; ``dtype``: float32 or bfloat16 weights (full fine-tuning: arithmetic);
    ``sequence``: longest example in tokens."""

    task: str = "gate"
    method: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str = "all-linear"
    rslora: bool = False
    dora: bool = False
    dtype: str = "float32"
    sequence: int = 1024
    gradient_checkpointing: bool = False
    validation: float = 0.1
    gate_prompt: str = "gate-1"
    rewrite_prompt: str = DEFAULT_REWRITE_PROMPT
    rewrite_lines: int = 8
    repeat: int = 1
    pair_limit: int = 1400
    threads: int = 0
    loop: LoopSettings = field(default_factory=LoopSettings)

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        rules = (
            (self.task in TASKS, "--task", self.task, f"Use one of {', '.join(TASKS)}."),
            (self.method in METHODS, "--method", self.method, f"Use one of {', '.join(METHODS)}."),
            (self.gate_prompt in GATE_PROMPTS, "--gate-prompt", self.gate_prompt, f"Use one of {', '.join(GATE_PROMPTS)}."),
            (self.rewrite_prompt in REWRITE_PROMPTS, "--rewrite-prompt", self.rewrite_prompt, f"Use one of {', '.join(REWRITE_PROMPTS)}."),
            (self.rank >= 1, "--rank", self.rank, "Use 1 or more."),
            (0 < self.alpha < inf, "--alpha", self.alpha, "Use a positive number."),
            (0 <= self.dropout < 1, "--dropout", self.dropout, "Use 0 to 1."),
            (0 <= self.validation <= 0.5, "--validation", self.validation, "Use a share of at most 0.5."),
            (0 <= self.loop.label_smoothing < 1, "--label-smoothing", self.loop.label_smoothing, "Use 0 to 1."),
            (self.rewrite_lines >= 0, "--rewrite-lines", self.rewrite_lines, "Use 0 (all) or more."),
            (self.repeat >= 1, "--repeat", self.repeat, "Use 1 or more."),
            (self.threads >= 0, "--threads", self.threads, "Use 0 (torch's choice) or more."),
            (self.pair_limit >= 0, "--pair-limit", self.pair_limit, "Use 0 (all) or more."),
            (self.loop.max_steps >= 0, "--max-steps", self.loop.max_steps, "Use 0 (never) or more."),
            (self.loop.warmup_steps >= 0, "--warmup", self.loop.warmup_steps, "Use 0 or more."),
            (self.loop.patience >= 0, "--patience", self.loop.patience, "Use 0 (never) or more."),
            (not self.loop.patience or bool(self.validation and self.loop.eval_every), "--patience", self.loop.patience, "It needs --validation and --eval-every above 0."),
            (self.loop.eval_every >= 0, "--eval-every", self.loop.eval_every, "Use 0 (never) or more."),
            (self.loop.save_every >= 0, "--save-every", self.loop.save_every, "Use 0 (only at the end) or more."),
            (self.loop.weight_decay >= 0, "--weight-decay", self.loop.weight_decay, "Use 0 or more."),
            (self.loop.loraplus_ratio >= 0, "--loraplus-ratio", self.loop.loraplus_ratio, "Use 0 (off) or more."),
            (self.dtype in ("float32", "bfloat16"), "--dtype", self.dtype, "Use float32 or bfloat16."),
            (self.loop.schedule in ("cosine", "linear", "constant"), "--schedule", self.loop.schedule, "Use cosine, linear or constant."),
            (self.loop.learning_rate > 0, "--lr", self.loop.learning_rate, "Use a positive rate."),
            (min(self.loop.batch_size, self.loop.accumulation, self.loop.epochs) >= 1, "--batch, --accumulation, --epochs", "", "Use 1 or more."),
            (self.sequence >= 16, "--sequence", self.sequence, "Use 16 or more."),
            (not (self.method == "full" and (self.dora or self.rslora or self.loop.loraplus_ratio)), "--method full", "", "DoRA, rsLoRA and LoRA+ need --method lora."),
        )
        for fine, flag, value, remedy in rules:
            if not fine:
                raise InputError(flag, f"{value!r} cannot be used" if value != "" else "values cannot be used together", remedy)

    def modules(self) -> str | list[str]:
        """``target_modules`` as peft takes it."""
        if self.targets == "attention":
            return list(ATTENTION)
        return self.targets if self.targets == "all-linear" else [name.strip() for name in self.targets.split(",") if name.strip()]

    def shown(self) -> dict[str, Any]:
        return asdict(self)


#: "huixiangdou-cr": the settings of HuixiangDou-CR (Kong 2024), axolotl LoRA on 2,302 questions.
PRESETS: dict[str, TrainSettings] = {
    "default": TrainSettings(),
    "huixiangdou-cr": TrainSettings(
        rank=64, alpha=16, dropout=0.05, dtype="bfloat16", sequence=1400, gradient_checkpointing=True, validation=0.0,
        loop=LoopSettings(learning_rate=2e-4, schedule="cosine", warmup_steps=10, epochs=1, batch_size=16),
    ),
    "smoke": TrainSettings(
        rank=8, alpha=16, dropout=0.0, repeat=1, pair_limit=200,
        loop=LoopSettings(learning_rate=5e-4, warmup_steps=2, epochs=1, batch_size=8, max_steps=24, save_every=12, eval_every=24),
    ),
}  # fmt: skip


def preset(name: str) -> TrainSettings:
    """Settings of a preset. Raises InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError("--preset", f"{name!r} does not exist", f"Use one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def override(settings: TrainSettings, values: dict[str, Any]) -> TrainSettings:
    """``settings`` with every value that is not None, looked up by field name in it and in its loop."""
    given = {key: value for key, value in values.items() if value is not None}
    of_loop = {f.name for f in fields(LoopSettings)}
    loop = replace(settings.loop, **{key: value for key, value in given.items() if key in of_loop})
    return replace(settings, loop=loop, **{key: value for key, value in given.items() if key not in of_loop})
