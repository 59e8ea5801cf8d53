"""One turn of the loop: snapshot, training, calibration, trial, promotion. Killed anywhere and started again on the same labels, it goes on with the training where that stopped;
the registry is changed only by renaming what is complete.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from core.config import Config
from core.errors import ConfigError, InputError
from core.gates.factory import SHIPPED
from core.gates.packaged import gguf_file, packaged_model
from core.registry import ADAPTER, CALIBRATION, CARD, ENCODER, HEAD, METRICS, QUESTIONS, Registry, Version
from scripts.resampling import RESAMPLES
from scripts.retraining.calibrate import calibrate
from scripts.retraining.frozen import keys_of_items, keys_of_samples, read_test_set, refuse_overlap, without_test_questions
from scripts.retraining.snapshots import snapshot_of
from scripts.retraining.trial import Trial, compare, is_tried, record_trial
from scripts.scaling_law.items import SNAPSHOT_FILE, Item
from scripts.training.data import data_hash, load_samples
from scripts.training.settings import TrainSettings, preset

log = structlog.get_logger(__name__)

LEAST_TEST_ITEMS = 100
_WORK, _SNAPSHOTS = "work", "snapshots"
#: Called with what is being done, and how much of it: steps done and steps of all, or None where that is not known.
OnStep = Callable[[str, int, int | None], None]


class Decision(StrEnum):
    """How a turn ended."""

    PROMOTED = "promoted"
    NOT_BETTER = "not better"
    NOT_PROMOTED = "better, but not to be promoted"
    NOTHING_NEW = "nothing new"


@dataclass(frozen=True, slots=True)
class CycleSettings:
    """``snapshot``: a snapshot folder or file of labels to use (None: take one); ``data``: training files beside it; ``test``: the frozen test set, None for
    ``[relabel] test_set``."""

    train: TrainSettings = field(default_factory=lambda: replace(preset("default"), validation=0.2))
    snapshot: Path | None = None
    data: tuple[Path, ...] = ()
    test: Path | None = None
    least_test_items: int = LEAST_TEST_ITEMS
    promote: bool = True
    resamples: int = RESAMPLES
    seed: int = 1


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What a turn did. ``version``: the candidate, 0 where none was made; ``serving``: what serves after it; ``questions``: labelled ones that were learnt from;
    ``left_out``: those that stand in the test set; ``seconds``: duration.
    """

    decision: Decision
    version: int
    serving: int
    snapshot: str
    questions: int = 0
    left_out: int = 0
    trial: Trial | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {"decision": str(self.decision), "version": self.version, "serving": self.serving, "snapshot": self.snapshot}
        values |= {"questions": self.questions, "left_out": self.left_out, "seconds": round(self.seconds, 1)}
        return values if self.trial is None else values | {"trial": self.trial.as_dict()}

    def told(self) -> str:
        """One line for people."""
        if self.decision is Decision.NOTHING_NEW:
            return f"Nothing new: version {self.version} was made from the same labels and settings; version {self.serving} serves."
        assert self.trial is not None
        change, f1 = self.trial.change, (self.trial.candidate.f1, self.trial.serving.f1)
        compared = f"F1 {f1[0]:.3f} against {f1[1]:.3f} on {self.trial.items} questions (difference {change.value:+.3f}, at least {change.low:+.3f} with 95%)"
        ends = {
            Decision.PROMOTED: f"version {self.version} serves from now on.",
            Decision.NOT_BETTER: f"not better beyond noise, version {self.serving} serves on.",
            Decision.NOT_PROMOTED: f"not promoted, as asked: python -m scripts.cycle promote {self.version}",
        }
        return f"{compared}: {ends[self.decision]}"


def registry_of(config: Config) -> Registry:
    """The registry that the config names. Raises ConfigError when it names none."""
    if not config.relabel.registry:
        raise ConfigError("relabel", "registry", "", "no folder for trained adapters", "Name one, for example models.", config.source)
    return Registry(Path(config.relabel.registry))


def frozen_items(config: Config, settings: CycleSettings) -> tuple[Path, list[Item]]:
    """The frozen test set that flag or config names. Raises ConfigError or InputError."""
    path = settings.test or (Path(config.relabel.test_set).expanduser() if config.relabel.test_set else None)
    if path is None:
        raise ConfigError("relabel", "test_set", "", "a new adapter is promoted only when it is better on a frozen test set", "Name one, or give --test FILE.", config.source)
    return path, read_test_set(path, settings.least_test_items)


def what_a_turn_needs(config: Config, settings: CycleSettings) -> str:
    """What a turn would use, in a line. Raises ConfigError or InputError for what it could not do without."""
    registry, base = registry_of(config), _base(config)
    path, items = frozen_items(config, settings)
    return f"retraining: {base.name}, {len(items)} questions of {path} decide, versions in {registry.folder}"


async def run_cycle(config: Config, settings: CycleSettings | None = None, on_step: OnStep = lambda step, done, total: None) -> CycleReport:
    """One whole turn. Training works in a thread; call it in a process of its own, at low priority, when a bot lives on this machine.

    :raises DoujieError: for a test set that is too small or shares questions with the training data, too few labels, or a model that cannot be used.
    """
    settings = settings or CycleSettings()
    registry = registry_of(config)
    started = time.monotonic()
    base = _base(config)
    test_path, items = frozen_items(config, settings)
    test = keys_of_items(items)
    await asyncio.to_thread(refuse_overlap, settings.data, test, str(test_path))
    with registry.locked():
        on_step("snapshot", 0, None)
        snapshot = settings.snapshot or await snapshot_of(config, registry.folder / _SNAPSHOTS)
        labels = registry.folder / _WORK / "labels.jsonl"
        questions, left_out = await asyncio.to_thread(without_test_questions, snapshot / SNAPSHOT_FILE if snapshot.is_dir() else snapshot, test, labels)
        run = _run_hash([labels, *settings.data], settings, base)
        version = await asyncio.to_thread(_made_before, registry, run)
        # One that serves without a trial was promoted just before a kill, or by force: it cannot be better than itself.
        if version is not None and (is_tried(registry, version.number) or version.number == registry.current().version):
            shutil.rmtree(registry.folder / _WORK, ignore_errors=True)
            return CycleReport(Decision.NOTHING_NEW, version.number, registry.current().version, str(snapshot), questions, left_out, None, time.monotonic() - started)
        if version is None:
            version = await asyncio.to_thread(_make_version, registry, labels, run, base, settings, on_step)
        trial = await _try(version, registry, items, config, settings, on_step)
        decision = _decide(trial, settings)
        if decision is Decision.PROMOTED:
            registry.promote(version.number)
        record_trial(registry, version.number, trial, str(decision))
        registry.prune()
        shutil.rmtree(registry.folder / _WORK, ignore_errors=True)
        serving = registry.current().version
    log.info("cycle", decision=str(decision), version=version.number, serving=serving, f1=trial.candidate.f1, f1_before=trial.serving.f1)
    return CycleReport(decision, version.number, serving, str(snapshot), questions, left_out, trial, time.monotonic() - started)


async def promote(number: int | None, config: Config, settings: CycleSettings, *, force: bool = False, on_step: OnStep = lambda step, done, total: None) -> CycleReport:
    """Promote a version of the registry (None: the newest) when it is better than what serves; ``force``: without a trial.

    :raises DoujieError: as :func:`run_cycle`, and for a version that is not there or serves already.
    """
    registry, started = registry_of(config), time.monotonic()
    with registry.locked():
        numbers = registry.numbers()
        if not numbers:
            raise InputError(str(registry.folder), "holds no version", "Make one: python -m scripts.cycle run.")
        version = await asyncio.to_thread(registry.open, numbers[-1] if number is None else number)
        if version.number == registry.current().version:
            raise InputError(f"version {version.number}", "serves already", "python -m scripts.cycle status lists all versions.")
        if force:
            registry.promote(version.number)
            log.info("promoted_without_trial", version=version.number)
            return CycleReport(Decision.PROMOTED, version.number, version.number, "", seconds=time.monotonic() - started)
        test_path, items = frozen_items(config, settings)
        _refuse_learnt(version, items, test_path)
        trial = await _try(version, registry, items, config, settings, on_step)
        decision = _decide(trial, settings)
        if decision is Decision.PROMOTED:
            registry.promote(version.number)
        record_trial(registry, version.number, trial, str(decision))
        registry.prune()
        return CycleReport(decision, version.number, registry.current().version, "", 0, 0, trial, time.monotonic() - started)


def _decide(trial: Trial, settings: CycleSettings) -> Decision:
    if not trial.better:
        return Decision.NOT_BETTER
    return Decision.PROMOTED if settings.promote else Decision.NOT_PROMOTED


def _base(config: Config) -> Path:
    """The GGUF model that serves, which is what is trained on. Raises ConfigError for another back end: only llama.cpp takes over adapters while it runs."""
    section = config.gate
    if section.backend not in ("auto", "llama_cpp") or section.adapter != "shipped" or (section.model and not section.model.lower().endswith(".gguf")):
        problem = "this gate does not take adapters from the registry"
        remedy = "Set backend = llama_cpp (or auto), adapter = shipped, and a GGUF file or nothing as model; other gates are trained by hand, see docs/training.md."
        raise ConfigError("gate", "backend", f"{section.backend}, model {section.model or 'packaged'}, adapter {section.adapter}", problem, remedy, config.source)
    return gguf_file(section.model, "gate", "model") if section.model else packaged_model("gate")


def _run_hash(data: Sequence[Path], settings: CycleSettings, base: Path) -> str:
    """Changes when anything changes that a training depends on."""
    facts = json.dumps([data_hash(data), settings.train.shown(), base.name, base.stat().st_size], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _made_before(registry: Registry, run: str) -> Version | None:
    """The version that an equal run made, None where there is none."""
    for number in reversed(registry.numbers()):
        try:
            version = registry.open(number)
        except InputError:
            continue  # a broken version is none: its run may be made again
        if version.about.get("run") == run:
            return version
    return None


def _make_version(registry: Registry, labels: Path, run: str, base: Path, settings: CycleSettings, on_step: OnStep) -> Version:
    """Train, calibrate, and put the result into the registry, where it does not serve yet."""
    from scripts.training.run import train

    data, out = [labels, *settings.data], registry.folder / _WORK / run
    for other in out.parent.iterdir():  # of a turn that failed, on labels that are not those of today
        if other.is_dir() and other != out:
            shutil.rmtree(other, ignore_errors=True)
    on_step("training", 0, None)
    outcome = train(data, str(base), out, settings.train, lambda state: on_step("training", state.step, state.total_steps))
    if outcome.metrics.get("gguf") != ADAPTER:
        raise InputError("training", f"gave no GGUF adapter: {outcome.metrics.get('gguf', 'full fine-tuning and DoRA have none')}", "Use --method lora.")
    on_step("calibration", 0, None)
    fitted = calibrate(labels, settings.data, base, out / ADAPTER, _serving_head(registry), settings.train, str(outcome.metrics["data_hash"]))
    fitted.calibration.save(out / CALIBRATION)
    (out / QUESTIONS).write_text(json.dumps(sorted(keys_of_samples(load_samples(data)))) + "\n", encoding="utf-8")
    files = {name: out / name for name in (ADAPTER, CALIBRATION, METRICS, QUESTIONS, CARD)}
    if fitted.head is not None:
        files[HEAD] = fitted.head
    if fitted.encoder is not None:
        files[ENCODER] = fitted.encoder
    about = {"run": run, "data_hash": outcome.metrics["data_hash"], "examples": outcome.metrics["examples"], "calibration": fitted.figures}
    return registry.add(files, base.stem, about)


def _serving_head(registry: Registry) -> Path:
    """The encoder head of what serves; the shipped one where that has none."""
    serving = registry.serving()
    return serving.head if serving is not None and serving.head is not None else SHIPPED / "gate" / HEAD


async def _try(version: Version, registry: Registry, items: Sequence[Item], config: Config, settings: CycleSettings, on_step: OnStep) -> Trial:
    serving = await asyncio.to_thread(registry.serving)
    total, done = 2 * len(items), 0
    on_step("trial", 0, total)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_step("trial", done, total)

    return await compare(version, serving, items, config, resamples=settings.resamples, seed=settings.seed, advance=advance)


def _refuse_learnt(version: Version, items: Sequence[Item], test: Path) -> None:
    """Raise InputError when the version learnt questions of the test set, or does not tell what it learnt."""
    try:
        learnt = set(json.loads((version.folder / QUESTIONS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(str(version.folder), "does not tell which questions it learnt", "Train it by scripts.cycle run, or promote it with --force.") from None
    shared = learnt & keys_of_items(items)
    if shared:
        raise InputError(str(test), f"shares {len(shared)} questions with what version {version.number} learnt", "Give another --test: a test on what was learnt proves nothing.")
