from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from core.answering import MAX_ANSWER_CHARS, MAX_BODY_BYTES, HuixiangDou, OpenAiChat, chat_url, make_answer_service
from core.config import AnswerSection
from core.errors import BackendError, ConfigError
from tests.core.answer_server import AnswerServer, answer_server, chat_answer

QUESTION = "怎么把 mmpose 部署到 TX2？"


@pytest.fixture
async def server() -> AsyncIterator[AnswerServer]:
    async with answer_server() as server:
        yield server


async def ask_openai(server: AnswerServer, timeout: float = 5.0) -> str | None:
    service = OpenAiChat(server.url, "qwen", "sk-very-secret", timeout=timeout)
    try:
        return await service.answer(QUESTION)
    finally:
        await service.close()


async def ask_huixiangdou(server: AnswerServer) -> str | None:
    service = HuixiangDou(server.url, 5.0, "sk-very-secret")
    try:
        return await service.answer(QUESTION)
    finally:
        await service.close()


async def test_openai_is_asked_with_key_model_and_question(server: AnswerServer) -> None:
    server.body = chat_answer("  用 mmdeploy。 ")
    assert await ask_openai(server) == "用 mmdeploy。"
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-very-secret"
    assert body["model"] == "qwen"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == QUESTION


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (chat_answer("<think>TX2 是…</think>\n用 mmdeploy。"), "用 mmdeploy。"),
        (chat_answer("<think>TX2 是…"), None),
        (json.dumps(chat_answer("好\ud83d\0")).encode(), "好\ufffd\u2400"),
        (chat_answer(""), None),
        (chat_answer(None), None),
        (chat_answer("长" * 5000), "长" * (MAX_ANSWER_CHARS - 1) + "…"),
    ],
)
async def test_what_the_group_sees_of_an_answer(server: AnswerServer, body: object, answer: str | None) -> None:
    server.body = body
    assert await ask_openai(server) == answer


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("用 mmdeploy。", "用 mmdeploy。"),
        ("", None),
        ({"step": [{"state": "初始化", "response": "", "refs": []}, {"state": "命中", "response": "甲", "refs": []}, {"state": "检查", "response": "乙", "refs": ["a.md"]}]}, "乙"),
        ({"step": [{"state": "命中", "response": "甲", "refs": []}, {"state": "结束", "response": " ", "refs": []}], "debug": {}}, "甲"),
        ({"step": [{"state": "不是提问", "response": "", "refs": []}]}, None),
        ({"step": [{"state": "?", "response": None}, "?", {"response": 3}]}, None),
        ({"step": []}, None),
    ],
)
async def test_huixiangdou_answers_in_both_of_its_modes(server: AnswerServer, body: object, answer: str | None) -> None:
    server.body = body
    assert await ask_huixiangdou(server) == answer
    assert server.requests[0][0] == "/huixiangdou_inference"
    assert server.requests[0][1]["Authorization"] == "Bearer sk-very-secret"
    assert server.requests[0][2] == {"text": QUESTION, "image": ""}


@pytest.mark.parametrize(
    ("status", "content_type", "body", "problem"),
    [
        (500, "text/html", b"<html>sk-very-secret</html>", "HTTP 500"),
        (401, "application/json", {"error": "bad key sk-very-secret"}, "HTTP 401"),
        (200, "text/html", b"<html>welcome to nginx</html>", "not JSON"),
        (200, "application/json", b"\xff\xfe", "not JSON"),
        (200, "application/json", b"[" * 100_000, "not JSON"),
        (200, "application/json", {"choices": []}, "choices"),
        (200, "application/json", [1, 2], "choices"),
        (200, "application/json", chat_answer(["parts"]), "not a text"),
        (200, "application/json", b'"' + b"x" * MAX_BODY_BYTES + b'"', "longer than"),
        (302, "text/html", b"", "HTTP 302"),
    ],
)
async def test_bad_answers_are_back_end_errors_without_secrets(server: AnswerServer, status: int, content_type: str, body: Any, problem: str) -> None:
    server.status, server.content_type, server.body = status, content_type, body
    if status == 302:
        server.headers["Location"] = f"{server.url}/elsewhere"
    with pytest.raises(BackendError, match=problem) as failure:
        await ask_openai(server)
    assert "sk-very-secret" not in str(failure.value)
    assert QUESTION not in str(failure.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [{"answer": "?"}, 7, None, [], {"step": "?"}])
async def test_json_of_another_kind_is_a_back_end_error(server: AnswerServer, body: object) -> None:
    server.body = body
    with pytest.raises(BackendError, match="step"):
        await ask_huixiangdou(server)


async def test_a_slow_service_is_given_up(server: AnswerServer) -> None:
    server.gate.clear()
    with pytest.raises(BackendError, match=r"no answer within 0\.05 s"):
        await ask_openai(server, timeout=0.05)


async def test_a_service_that_is_down(server: AnswerServer) -> None:
    service = OpenAiChat("http://127.0.0.1:1", "qwen")
    with pytest.raises(BackendError, match="cannot be reached"):
        await service.answer(QUESTION)
    await service.close()
    await service.close()


async def test_retry_after_is_handed_on(server: AnswerServer) -> None:
    server.status, server.headers = 429, {"Retry-After": "30"}
    with pytest.raises(BackendError) as failure:
        await ask_openai(server)
    assert failure.value.retry_after == 30.0


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions"),
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/api/v3/", "http://h/api/v3/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
    ],
)
def test_the_base_url_may_be_written_in_the_usual_ways(base: str, url: str) -> None:
    assert chat_url(base) == url


def test_services_by_config() -> None:
    assert make_answer_service(AnswerSection()) is None
    assert isinstance(make_answer_service(AnswerSection(kind="huixiangdou", base_url="http://h:23333")), HuixiangDou)
    assert isinstance(make_answer_service(AnswerSection(base_url="http://h", model="m", api_key=SecretStr("k"))), OpenAiChat)
    with pytest.raises(ConfigError, match=r"\[answer\] model"):
        make_answer_service(AnswerSection(base_url="http://h"))
