"""Opening one language model of a config section: which back ends may do, in which order, and what each is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from core.config import GateSection, ResolverSection
from core.errors import BackendError, ConfigError, InputError
from core.gates.limits import SEQUENCES
from core.gates.packaged import gguf_file, model_path
from core.gates.worker import ModelWorker
from core.ports import LanguageModel

log = structlog.get_logger(__name__)

#: Tokens beside the context that the instruction, the question and the answer of a prompt take.
PROMPT_RESERVE = 512
#: Where one of these is, there is an NVIDIA driver (the second: under Windows).
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
_NO_ADAPTER = ("", "none", "shipped")


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """``where``: the back end and what it runs on, for people; ``shipped``: the model that the shipped calibration was made with."""

    backend: str
    model: LanguageModel
    where: str
    shipped: bool = False

    @property
    def note(self) -> str:
        return f"{self.where}, model {self.model.name}, adapter {self.model.adapter or 'none'}"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a section says about its model. ``shipped_adapter``: the adapter of the packaged model, None where none is shipped."""

    section: str
    values: GateSection | ResolverSection
    worker: ModelWorker
    threads: int
    device: str
    shipped_adapter: Path | None

    @property
    def names_local_model(self) -> bool:
        """Whether ``model`` is something on this disk, and no name that a server knows."""
        return bool(self.values.model) and Path(self.values.model).expanduser().exists()

    @property
    def is_gguf(self) -> bool:
        return self.values.model.lower().endswith(".gguf")

    @property
    def adapter(self) -> str:
        """The adapter that the admin named, "" for none or the shipped one."""
        return "" if self.values.adapter in _NO_ADAPTER else self.values.adapter

    @property
    def peft_adapter(self) -> Path | None:
        """The folder of the named adapter, None where none is named. Raises ConfigError for what is no peft adapter."""
        if not self.adapter:
            return None
        path = Path(self.adapter).expanduser()
        if not (path / "adapter_config.json").is_file():
            remedy = "transformers needs a folder with adapter_config.json; a GGUF adapter works with backend = llama_cpp."
            raise ConfigError(self.section, "adapter", self.adapter, "is no peft adapter", remedy)
        return path

    @property
    def served_adapter(self) -> str:
        """The named adapter as a server knows it: a name, and nothing on this disk."""
        return "" if Path(self.adapter).expanduser().exists() else self.adapter

    @property
    def key_hint(self) -> str:
        """Where the admin sets the key of a server."""
        return f"[{self.section}] api_key, or DOUJIE_{self.section.upper()}__API_KEY"


async def open_language_models(source: ModelSource, backend: str, note: Callable[[str], None]) -> list[OpenedModel]:
    """The models of a section, the preferred one first. One for a named back end; for ``auto`` all that work here, and a ``note`` for each that does not.

    :raises ConfigError: when a named back end, or every one of ``auto``, cannot be opened.
    """
    names = candidates(source) if backend == "auto" else [backend]
    opened: list[OpenedModel] = []
    failed: ConfigError | None = None
    for name in names:
        try:
            opened.append(await _open(name, source))
        except ConfigError as error:
            failed = error
            if len(names) > 1:
                note(f"{source.section}: back end {name} is skipped: {error.problem}. {error.remedy}")
                log.warning("backend_skipped", stage=source.section, backend=name, problem=error.problem)
        except BaseException:
            await close_all(opened)
            raise
    if not opened and failed is not None:
        raise failed
    return opened


async def close_all(opened: list[OpenedModel]) -> None:
    """Free what was opened."""
    for one in opened:
        await one.model.close()


def candidates(source: ModelSource) -> list[str]:
    """The order of ``auto``: a server that is named; torch for a folder, or for a model that is named where there is a GPU; llama.cpp for GGUF files and the packaged model."""
    values, names = source.values, []
    if values.base_url:
        names.append("openai")
    is_folder = source.names_local_model and Path(values.model).expanduser().is_dir()
    if is_folder or (values.model and not values.base_url and not source.is_gguf) or (source.is_gguf and not source.adapter.endswith(".gguf") and cuda_is_there()):
        names.append("transformers")
    if source.section == "gate" or source.is_gguf or source.adapter.endswith(".gguf"):
        names.append("llama_cpp")
    return names


def cuda_is_there() -> bool:
    """Whether torch could use an NVIDIA GPU here. torch itself, which takes seconds to import, is only asked when there is a driver."""
    if not any(Path(device).exists() for device in NVIDIA_DEVICES) or importlib.util.find_spec("torch") is None:
        return False
    try:
        import torch
    except (ImportError, OSError):  # a build whose libraries are not all there
        return False

    return bool(torch.cuda.is_available())


async def _open(backend: str, source: ModelSource) -> OpenedModel:
    """One back end. Raises ConfigError that names the section's key."""
    ways = {"openai": _open_server, "transformers": _open_transformers, "llama_cpp": _open_llama_cpp}
    try:
        return await ways[backend](source)
    except ImportError as error:
        package = {"llama_cpp": "llama-cpp-python", "transformers": "torch, transformers and peft (pip install 'doujie[gpu]')"}.get(backend, str(error.name))
        raise ConfigError(source.section, "backend", backend, f"{package} is not installed", "Install it, or choose another back end.") from None
    except InputError as error:
        raise ConfigError(source.section, "model", source.values.model, error.problem, error.remedy) from None
    except ConfigError as error:
        raise ConfigError(source.section, error.key, error.value, error.problem, error.remedy, error.source) from None
    except BackendError as error:
        raise ConfigError(source.section, "backend", backend, error.problem, "See docs/serving.md.") from None


async def _open_server(source: ModelSource) -> OpenedModel:
    from core.gates.openai import OpenAiModel
    from core.gates.openai_http import HttpStatusError, JsonClient

    values, section = source.values, source.section
    if not values.base_url:
        raise ConfigError(section, "base_url", "", "the back end openai needs the address of a server", "Such as http://127.0.0.1:8000/v1.")
    client = JsonClient(values.api_key.get_secret_value(), timeout_seconds=values.timeout_seconds, key_hint=source.key_hint)
    name = "" if source.names_local_model else values.model
    try:
        model = await OpenAiModel.open(values.base_url, name, client, source.served_adapter)
    except HttpStatusError as error:
        key = {401: "api_key", 403: "api_key", 404: "model"}.get(error.status, "base_url")
        shown = {"model": name, "base_url": server_name(values.base_url)}.get(key)
        raise ConfigError(section, key, shown, error.problem, "See docs/serving.md, section on servers.") from None
    except BackendError as error:
        remedy = "Is the server running, and is this its address with the version part, such as /v1?"
        raise ConfigError(section, "base_url", server_name(values.base_url), error.problem, remedy) from None
    if not model.gives_logprobs and section == "gate":
        await model.close()
        remedy = "Use vLLM, llama-server, a service with logprobs, or a local back end."
        raise ConfigError(section, "backend", "openai", "the server gives no log-probabilities, which a gate needs", remedy)
    without = "" if model.gives_logprobs else ", without log-probabilities: the ranker alone says how sure a rewrite is"
    return OpenedModel("openai", model, f"openai at {server_name(values.base_url)} by {model.style}{without}")


async def _open_transformers(source: ModelSource) -> OpenedModel:
    from core.gates.transformers import TransformersModel

    values = source.values
    name = values.model or str(model_path("", source.section))
    model = await TransformersModel.open(
        name, source.peft_adapter, source.worker, context_tokens=values.context_tokens + PROMPT_RESERVE, device=source.device, threads=source.threads, section=source.section
    )
    return OpenedModel("transformers", model, f"transformers on {model.device}")


async def _open_llama_cpp(source: ModelSource) -> OpenedModel:
    from core.gates.llama_cpp import LlamaCppModel
    from core.gates.llama_engine import default_threads

    values = source.values
    # Under auto, a name that is no GGUF file is meant for another back end, and the packaged model steps in for it.
    own = values.model if source.is_gguf or values.backend == "llama_cpp" else ""
    path = model_path(own, source.section)
    shipped = source.shipped_adapter if not own and values.adapter == "shipped" else None
    adapter = gguf_file(source.adapter, source.section, "adapter") if source.adapter else shipped
    together = 2 if shipped is not None else SEQUENCES  # the shipped gate is shown the question alone: there is no prefix that branches could share
    model = await LlamaCppModel.open(path, adapter, source.worker, context_tokens=values.context_tokens + PROMPT_RESERVE, threads=source.threads, sequences=together)
    threads = source.threads or default_threads()
    return OpenedModel("llama_cpp", model, f"llama_cpp on {threads} CPU threads", shipped is not None)


def server_name(base_url: str) -> str:
    """The address without what may be secret in it: user, password and query."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
