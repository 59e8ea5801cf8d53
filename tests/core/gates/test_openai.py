"""The openai back end: against a real llama_cpp.server process with the packaged model, and against a loopback server that answers badly."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from core.errors import BackendError
from core.gates.openai import OpenAiModel
from core.gates.openai_http import HttpStatusError, JsonClient
from core.gates.packaged import model_path
from core.ports import Prompt
from tests.core.gates.conformance import LanguageModelConformance
from tests.core.gates.llama_server import LlamaServer
from tests.core.gates.model_server import ModelServer, as_json, endless, model_server, plainly

KEY = "sk-very-secret-0123456789"
PROMPT = Prompt("", "", "怎么把它部署到 TX2？\n缺上文？")


async def connect(server: ModelServer, model: str = "", suffix: str = "", **settings: Any) -> OpenAiModel:
    return await OpenAiModel.open(server.url + suffix, model, JsonClient(KEY, **settings))


def digits(prompt: str) -> dict[str, float]:
    return {"4": -0.5 - 0.01 * (len(prompt) % 7), "7": -3.0, "5": -2.0, ",": -4.0}


class TestOpenAiModel(LanguageModelConformance):
    """Completions, as vLLM answers them."""

    noise = 1e-6

    @pytest.fixture
    async def model(self) -> AsyncIterator[OpenAiModel]:
        async with model_server(listed=digits, text="4,5") as server:
            opened = await connect(server)
            yield opened
            await opened.close()


class TestOpenAiChatModel(LanguageModelConformance):
    """Chat completions alone, as hosted services answer them."""

    noise = 1e-6
    scores = counts = False

    @pytest.fixture
    async def model(self) -> AsyncIterator[OpenAiModel]:
        async with model_server(listed=digits, text="\n4,5", paths=("chat/completions",)) as server:
            opened = await connect(server)
            yield opened
            await opened.close()


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real ``python -m llama_cpp.server`` with the packaged model. Yields its base URL."""
    server = LlamaServer(model_path("", "gate"), tmp_path_factory.mktemp("server") / "log", context_tokens=192, key=KEY)
    server.start()
    yield server.url
    server.stop()


@pytest.mark.model
class TestLlamaCppServer(LanguageModelConformance):
    """The suite on a real server."""

    @pytest.fixture
    async def model(self, llama_server: str) -> AsyncIterator[OpenAiModel]:
        opened = await OpenAiModel.open(llama_server, "", JsonClient(KEY, timeout_seconds=120.0))
        assert opened.style == "completions"
        yield opened
        await opened.close()


async def test_a_wrong_key_is_refused_at_once_with_the_remedy(llama_server: str) -> None:
    with pytest.raises(HttpStatusError, match=r"HTTP 401.*\[gate\] api_key") as caught:
        await OpenAiModel.open(llama_server, "", JsonClient("sk-wrong", key_hint="[gate] api_key"))
    assert "sk-wrong" not in str(caught.value)


async def test_the_model_and_the_way_of_asking_are_found() -> None:
    async with model_server() as server:
        model = await connect(server)
        assert (model.name, model.style, model.gives_logprobs) == ("base", "completions", True)
        assert (await connect(server, "tuned", "/chat/completions")).style == "chat"
        assert [path for path, _ in server.requests].count("models") == 1


@pytest.mark.parametrize("settings", [{"paths": ("chat/completions",)}, {"top_limit": 5}])
async def test_the_first_token_decides_with_one_token_of_output(settings: dict[str, Any]) -> None:
    async with model_server(**settings) as server:
        model = await connect(server)
        ((yes, no),) = await model.answer_logprobs([PROMPT], ("yes", "no"))
        assert math.exp(yes - no) == pytest.approx(2.0)
        path, body = server.requests[-1]
        assert (body["max_tokens"], body["temperature"], body["stream"]) == (1, 0, False)
        assert path == settings.get("paths", ("completions",))[0]


async def test_an_answer_outside_the_list_is_less_likely_than_the_last_listed() -> None:
    async with model_server(listed=lambda prompt: {"yes": -0.1, "x": -6.0}) as server:
        ((yes, no),) = await (await connect(server)).answer_logprobs([PROMPT], ("yes", "no"))
        assert yes == -0.1
        assert no == -7.0


@pytest.mark.parametrize("listed", [{"\n": -0.5, " ": -1.5}, {"\n": -0.5, "n": -4.0}], ids=["none listed", "one listed, and unlikely"])
async def test_answers_that_are_not_listed_are_asked_for_by_echo_and_from_then_on_at_once(listed: dict[str, float]) -> None:
    """As with an adapter that was trained to compare the two answers: both are unlikely beside an empty line, and yet their ratio is the verdict."""
    exact = {"y": -4.25, "n": -4.0}

    async with model_server(listed=lambda prompt: {**listed, **exact}, shown=lambda found: {token: found[token] for token in listed}) as server:
        model = await connect(server)
        first = await model.answer_logprobs([PROMPT], ("y", "n"))
        assert first == [[-4.25, -4.0]]
        before = len(server.requests)
        assert await model.answer_logprobs([PROMPT], ("y", "n")) == first
        assert [body["echo"] for _, body in server.requests[before:]] == [True, True]


async def test_a_model_that_does_not_answer_in_the_asked_form_is_an_error() -> None:
    async with model_server(listed=lambda prompt: {"The": -0.1, "I": -3.0}, echoes=False) as server:
        model = await connect(server)
        with pytest.raises(BackendError, match="asked form"):
            await model.answer_logprobs([PROMPT], ("yes", "no"))


async def test_a_chat_model_may_write_its_answer_in_capitals() -> None:
    listed = {"Yes": math.log(0.3), " yes": math.log(0.3), "No": math.log(0.2), "n": math.log(0.1)}
    async with model_server(listed=lambda prompt: listed, paths=("chat/completions",)) as server:
        ((yes, no),) = await (await connect(server)).answer_logprobs([PROMPT], ("yes", "no"))
        assert math.exp(yes) == pytest.approx(0.6)
        assert math.exp(no) == pytest.approx(0.2)


async def test_a_chat_model_s_thoughts_are_not_its_answer() -> None:
    async with model_server(text="<think>\n嗯\n</think>\n\n答案\n还有", paths=("chat/completions",)) as server:
        generation = await (await connect(server)).generate(PROMPT, 64)
        assert generation.text == "答案"
        assert len(generation.logprobs) == 2
        server.text = "<think>\n想得太久"
        with pytest.raises(BackendError, match="thoughts"):
            await (await connect(server)).generate(PROMPT, 64)


async def test_a_model_whose_thoughts_stand_apart_rewrites_but_does_not_judge() -> None:
    async with model_server(paths=("chat/completions",)) as server:
        server.bad = as_json({"choices": [{"message": {"role": "assistant", "content": None, "reasoning_content": "嗯"}}]})
        model = await connect(server, "thinker", "/chat/completions")
        assert not model.gives_logprobs
        with pytest.raises(BackendError, match="thoughts"):
            await model.generate(PROMPT, 64)
        server.bad = None
        assert (await model.generate(PROMPT, 64)).text == server.text


@pytest.mark.parametrize("refused", [{"logprobs": False}, {"top_limit": 0, "paths": ("chat/completions",)}], ids=["left out", "refused"])
async def test_without_log_probabilities_it_rewrites_but_does_not_judge(refused: dict[str, Any]) -> None:
    async with model_server(**refused) as server:
        model = await connect(server)
        assert not model.gives_logprobs
        assert (await model.generate(PROMPT, 64)).text == server.text
        if not server.logprobs:
            assert (await model.generate(PROMPT, 64)).logprobs == ()
            with pytest.raises(BackendError, match="no log-probabilities"):
                await model.answer_logprobs([PROMPT], ("yes", "no"))


async def test_a_server_that_does_not_echo_cannot_score_and_says_so() -> None:
    async with model_server(echoes=False) as server:
        with pytest.raises(BackendError, match="does not echo"):
            await (await connect(server)).score(PROMPT, ["是"])


async def test_no_more_calls_at_once_than_allowed() -> None:
    async with model_server() as server:
        model = await connect(server, concurrency=3)
        rows = await model.answer_logprobs([PROMPT] * 30, ("yes", "no"))
        assert len(rows) == 30
        assert 1 < server.most_at_once <= 3


BAD: list[tuple[str, Callable[..., Any], str]] = [
    ("wrong JSON", plainly(200, b'{"choices": ['), "not JSON"),
    ("HTML", plainly(200, b"<html><body>login</body></html>"), "HTML"),
    ("too deep", plainly(200, b"[" * 100_000), "not JSON"),
    ("no choices", as_json({"object": "error"}), r"no choices\[0\]"),
    ("choices of another kind", as_json({"choices": ["x"]}), "no object"),
    ("no text", as_json({"choices": [{"index": 0}]}), r"choices\[0\]"),
    ("positive log-probability", as_json({"choices": [{"text": "y", "logprobs": {"tokens": ["y"], "token_logprobs": [3.0], "top_logprobs": [{"y": 3.0}]}}]}), "garbage"),
    ("log-probability that no float holds", as_json({"choices": [{"text": "y", "logprobs": {"tokens": ["y"], "token_logprobs": [10**400]}}]}), "garbage"),
    ("log-probabilities of another form", as_json({"choices": [{"text": "y", "logprobs": {"tokens": 5}}]}), "another form"),
    ("500", plainly(500, b"secret question text"), "HTTP 500"),
    ("redirect", plainly(302, b"", {"Location": "http://127.0.0.1:9/"}), "HTTP 302"),
    ("401", plainly(401, b""), "refuses the key"),
]


@pytest.mark.parametrize(("answer", "problem"), [pytest.param(answer, problem, id=name) for name, answer, problem in BAD])
async def test_a_bad_answer_is_one_plain_error_and_no_second_call(answer: Callable[..., Any], problem: str) -> None:
    async with model_server() as server:
        model = await connect(server)
        server.bad = answer
        before = len(server.requests)
        with pytest.raises(BackendError, match=problem) as caught:
            await model.answer_logprobs([PROMPT], ("yes", "no"))
        assert len(server.requests) == before + 1
        assert "TX2" not in str(caught.value)
        assert KEY not in str(caught.value)
        assert "secret question" not in str(caught.value)
        server.bad = None
        assert len(await model.answer_logprobs([PROMPT], ("yes", "no"))) == 1


async def test_an_endless_answer_is_cut_by_size_or_time() -> None:
    async with model_server() as server:
        model = await connect(server)
        server.bad = endless(b"x" * (1 << 20))
        with pytest.raises(BackendError, match="longer than 8 MiB"):
            await model.generate(PROMPT, 8)
        hasty = await dripping(server)
        with pytest.raises(BackendError, match="no complete answer within"):
            await hasty.generate(PROMPT, 8)


async def dripping(server: ModelServer) -> OpenAiModel:
    """A client with a short time-out, made while the server is well, that then drips."""
    server.bad = None
    model = await connect(server)
    model._client._timeout = 0.2
    server.bad = endless(b"")
    return model


async def test_too_many_calls_come_with_the_time_to_wait() -> None:
    async with model_server() as server:
        model = await connect(server)
        server.bad = plainly(429, b"", {"Retry-After": "17"})
        with pytest.raises(BackendError, match="429") as caught:
            await model.generate(PROMPT, 8)
        assert caught.value.retry_after == 17.0


async def test_a_server_that_is_gone_is_an_error() -> None:
    async with model_server() as server:
        model = await connect(server)
    with pytest.raises(BackendError, match="cannot be reached"):
        await model.generate(PROMPT, 8)
    await model.close()
