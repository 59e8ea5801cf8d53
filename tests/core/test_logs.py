from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from core.config import Config, FeishuSection, GateSection, StorageSection
from core.logs import Level, configure_logs, secrets_of


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def as_json(level: Level = "info", secrets: frozenset[str] = frozenset()) -> io.StringIO:
    stream = io.StringIO()
    configure_logs(level, "json", secrets, stream)
    return stream


def test_a_line_of_json_tells_when_what_and_who() -> None:
    stream = as_json()
    structlog.get_logger("core.delivery").info("reply_retried", platform="feishu", after_seconds=7)
    (line,) = lines(stream)
    assert {key: line[key] for key in ("event", "level", "logger", "platform", "after_seconds")} == {
        "event": "reply_retried",
        "level": "info",
        "logger": "core.delivery",
        "platform": "feishu",
        "after_seconds": 7,
    }
    assert line["timestamp"].endswith("Z")


def test_libraries_log_through_the_same_door() -> None:
    stream = as_json(secrets=frozenset({"tenant-abcdef"}))
    logging.getLogger("some.library").warning("bad token %s for %s", "tenant-abcdef", "g1")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("bad token *** for g1", "warning", "some.library")


def test_secrets_vanish_by_name_and_by_value() -> None:
    stream = as_json(secrets=frozenset({"hunter2-hunter2", "x"}))
    log = structlog.get_logger("a")
    log.info("connect", app_secret="abc", headers={"Authorization": "Bearer abc", "X": "1"}, url="http://h/?k=hunter2-hunter2", tried=["hunter2-hunter2"], tokens=12)
    try:
        raise ValueError("cannot use hunter2-hunter2")
    except ValueError:
        log.exception("failed")
    assert "hunter2" not in stream.getvalue()
    first, second = lines(stream)
    assert (first["app_secret"], first["headers"], first["tokens"], first["tried"]) == ("***", {"Authorization": "***", "X": "1"}, 12, ["***"])
    assert "cannot use ***" in second["exception"]


def test_words_of_members_show_at_debug_only() -> None:
    stream = as_json("debug")
    log = structlog.get_logger("a")
    log.debug("seen", text="怎么部署？")
    log.info("seen", text="怎么部署？", rewrite="怎么把它部署？")
    debug, info = lines(stream)
    assert debug["text"] == "怎么部署？"
    assert (info["text"], info["rewrite"]) == ("(5 characters)", "(7 characters)")


def test_the_level_holds_and_the_last_call_counts() -> None:
    first = as_json("debug")
    second = as_json("warning")
    log = structlog.get_logger("a")
    log.info("quiet")
    log.warning("loud")
    logging.getLogger("sqlalchemy.engine").info("SELECT")
    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["loud"]


def test_the_console_form_is_one_readable_line() -> None:
    stream = io.StringIO()
    configure_logs("info", "console", stream=stream)
    structlog.get_logger("core.ingest").warning("group_not_collected", group="oc_1", name="技术群")
    (line,) = stream.getvalue().splitlines()
    assert "group_not_collected" in line
    assert "group=oc_1" in line
    assert "\x1b" not in line


def test_the_secrets_of_a_config() -> None:
    config = Config(
        feishu=FeishuSection(app_secret=SecretStr("feishu-secret")), gate=GateSection(api_key=SecretStr("sk-1")), storage=StorageSection(url="postgresql://me:pa:ss@host/name")
    )
    assert secrets_of(config) >= {"feishu-secret", "sk-1", "pa:ss"}
    assert "" not in {secret for secret in secrets_of(Config()) if len(secret) >= 6}
