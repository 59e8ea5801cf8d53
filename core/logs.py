"""Logs: structlog on the console or as JSON lines, also for the libraries that log by the standard library.

Secrets never appear: neither under a telling name nor as a value that the config holds. What members wrote never appears at info or above, whoever logs it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from typing import Any, Literal, TextIO

import structlog
from pydantic import SecretStr
from structlog.types import EventDict, Processor, WrappedLogger

from core.config import SECTIONS, Config

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["console", "json"]

HIDDEN = "***"
SHORTEST_SECRET = 6  # replacing shorter values everywhere would garble what is harmless

_SECRET_NAMES = ("secret", "token", "password", "passwd", "api_key", "apikey", "authorization", "encrypt_key", "cookie", "credential")
_HARMLESS_NAMES = frozenset({"tokens", "context_tokens", "max_new_tokens", "prompt_tokens", "new_tokens"})
_TEXT_NAMES = frozenset({"text", "texts", "content", "question_text", "rewrite", "candidate", "answer", "prompt", "context", "utterance", "message_text", "body", "payload"})
_NOISY = ("aiohttp.access", "asyncio", "sqlalchemy", "aiosqlite", "alembic", "apscheduler", "matplotlib")


def secrets_of(config: Config) -> frozenset[str]:
    """Every secret value of a config, the password of the database URL among them."""
    found = {value.get_secret_value() for section in SECTIONS for value in dict(getattr(config, section)).values() if isinstance(value, SecretStr)}
    _, separator, rest = config.storage.url.partition("://")
    user, at, _ = rest.rpartition("@")
    if separator and at and ":" in user:
        found.add(user.partition(":")[2])
    return frozenset(found)


class RedactSecrets:
    """Processor that replaces secrets by ``***``: values of telling names, and ``secrets`` wherever they stand, also inside other texts."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._secrets = sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return {key: HIDDEN if _is_secret_name(str(key)) else self._redact(value) for key, value in event.items()}

    def _redact(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, HIDDEN)
            return value
        if isinstance(value, dict):
            return {key: HIDDEN if _is_secret_name(str(key)) else self._redact(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redact(item) for item in value]
        return value


def drop_texts(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Processor that takes members' words out of everything but debug."""
    if event.get("level", name) == "debug":
        return event
    return {key: f"({len(str(value))} characters)" if key in _TEXT_NAMES else value for key, value in event.items()}


def configure_logs(level: Level = "info", form: Form = "console", secrets: Collection[str] = (), stream: TextIO | None = None) -> None:
    """Configure structlog and the standard library's logging. May be called again; the last call counts.

    :param secrets: values that must not appear, see :func:`secrets_of`. :param stream: standard error where None.
    """
    output = stream or sys.stderr
    renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    guards: list[Processor] = [drop_texts, RedactSecrets(secrets)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *guards, renderer]))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for library in _NOISY:
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))


def _is_secret_name(name: str) -> bool:
    lowered = name.lower()
    return lowered not in _HARMLESS_NAMES and any(part in lowered for part in _SECRET_NAMES)
