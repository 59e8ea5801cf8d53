"""The configuration: one INI file, typed, with environment overrides ``DOUJIE_<SECTION>__<KEY>``.

Unknown sections, unknown keys and bad values raise :class:`core.errors.ConfigError`, which names section, key, value and remedy. ``config.example.ini`` documents every key.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
import unicodedata
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from core.crontab import parse_crontab
from core.errors import ConfigError

ENVIRONMENT_PREFIX = "DOUJIE_"


_PART = re.compile(r'[^\S\n]*(?:"([^"\n]*)"|([^,，\n]*))[^\S\n]*(?:[,，\n]|$)')


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for match in _PART.finditer(value) if (part := match[1] or match[2] or "").strip())
    return value


def as_entry(entry: str) -> str:
    """``entry`` as it has to be written into a list of the config."""
    return f'"{entry}"' if re.search("[,，]", entry) else entry


def _quiet_hours(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    typed = unicodedata.normalize("NFKC", value).strip()  # a Chinese keyboard gives "：" and "－"
    match = re.fullmatch(r"(\d{1,2}):(\d{2})\s*[-–—~]\s*(\d{1,2}):(\d{2})", typed)
    if not match:
        raise ValueError("expected HH:MM-HH:MM, for example 23:00-08:00")
    hours = [int(part) for part in match.groups()]
    return time(hours[0], hours[1]), time(hours[2], hours[3])


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):  # KeyError: ZoneInfoNotFoundError
        raise ValueError("unknown time zone, expected an IANA name such as Asia/Shanghai or UTC") from None
    return value


def _http_url(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]", value):
        raise ValueError("expected a URL that begins with http:// or https://")
    return value


def _url_path(value: str) -> str:
    if not re.fullmatch(r"/[^\s{}?#]*", value):
        raise ValueError("expected the path of a URL that begins with /, such as /feishu/events")
    return value


def _cron(value: str) -> str:
    parse_crontab(value)
    return value


def _optional_cron(value: str) -> str:
    return _cron(value) if value.strip() else ""


Cron = Annotated[str, AfterValidator(_cron)]
OptionalCron = Annotated[str, AfterValidator(_optional_cron)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
QuietHours = Annotated[tuple[time, time] | None, BeforeValidator(_quiet_hours)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
#: At most a year: what is longer is a typing error, and would overflow dates.
Seconds = Annotated[float, Field(gt=0.0, le=31_536_000.0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
BackendName = Literal["auto", "transformers", "llama_cpp", "openai", "none"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)


class BotSection(Section):
    """What the bot does in its groups."""

    groups: Words = ()
    reply: Literal["off", "rewrite", "answer"] = "off"
    admins: Words = ()
    glossary: Words = ()
    language: Literal["zh", "en"] = "zh"
    quiet_hours: QuietHours = None
    timezone: TimeZone = "Asia/Shanghai"
    group_replies_per_hour: Annotated[int, Field(ge=0)] = 20
    member_replies_per_hour: Annotated[int, Field(ge=0)] = 5
    max_reply_age_seconds: Seconds = 300.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"


class MergeSection(Section):
    """When successive messages of one member are one utterance."""

    window_seconds: Seconds = 75.0
    finished_window_seconds: Seconds = 40.0
    max_wait_seconds: Seconds = 240.0
    max_messages: Annotated[int, Field(ge=1)] = 12
    max_chars: Annotated[int, Field(ge=1)] = 2000


class FilterSection(Section):
    """Which utterances are questions."""

    min_chars: Annotated[int, Field(ge=0)] = 2
    max_chars: Annotated[int, Field(ge=1)] = 1000


class GateSection(Section):
    """Which questions need resolution."""

    backend: BackendName = "auto"
    model: str = ""
    adapter: str = "shipped"
    threshold: Fraction | None = None
    base_url: HttpUrl = ""
    api_key: SecretStr = SecretStr("")
    prompt: str = ""
    context_lines: Annotated[int, Field(ge=0, le=200)] = 16
    context_tokens: Annotated[int, Field(ge=64)] = 1024
    threads: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    timeout_seconds: Seconds = 30.0
    encoder: bool = True


class ResolverSection(Section):
    """How questions are rewritten. An empty back end is the gate's."""

    backend: Literal["", "auto", "transformers", "llama_cpp", "openai", "none"] = ""
    model: str = ""
    adapter: str = "shipped"
    base_url: HttpUrl = ""
    api_key: SecretStr = SecretStr("")
    prompt: str = ""
    min_confidence: Fraction | None = None
    context_tokens: Annotated[int, Field(ge=64)] = 1024
    max_new_tokens: Annotated[int, Field(ge=8)] = 96
    timeout_seconds: Seconds = 60.0


class StorageSection(Section):
    """Where everything is logged."""

    url: str = Field(default="sqlite+aiosqlite:///doujie.db", repr=False)  # a PostgreSQL URL holds a password


class WechatSection(Section):
    """WeChat by one of three providers."""

    provider: Literal["wechaty", "android", "wkteam"] = "wechaty"
    token: SecretStr = SecretStr("")
    endpoint: str = ""
    listen: str = "127.0.0.1:9528"
    secret: SecretStr = SecretStr("")
    wcid: str = ""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576


class FeishuSection(Section):
    """Feishu or Lark, a self-built app."""

    app_id: str = ""
    app_secret: SecretStr = SecretStr("")
    domain: HttpUrl = "https://open.feishu.cn"
    mode: Literal["websocket", "webhook"] = "websocket"
    encrypt_key: SecretStr = SecretStr("")
    verification_token: SecretStr = SecretStr("")
    listen: str = "127.0.0.1:9527"
    path: UrlPath = "/feishu/events"
    names_max_age_seconds: Seconds = 3600.0
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576


class AnswerSection(Section):
    """Who answers resolved questions when ``[bot] reply = answer``."""

    kind: Literal["openai", "huixiangdou"] = "openai"
    base_url: HttpUrl = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    timeout_seconds: Seconds = 60.0
    system_prompt: str = ""


class RelabelSection(Section):
    """Judging logged questions again with a newer gate, and retraining, from time to time. An empty key of the gate is that of ``[gate]``."""

    enabled: bool = False
    cron: Cron = "30 3 * * *"
    days: Annotated[int, Field(ge=1, le=36500)] = 30
    limit: Annotated[int, Field(ge=1)] = 500
    backend: Literal["", "auto", "transformers", "llama_cpp", "openai"] = ""
    model: str = ""
    adapter: str = ""
    base_url: HttpUrl = ""
    prompt: str = ""
    queue_size: Annotated[int, Field(ge=0)] = 200
    cycle_cron: OptionalCron = ""
    registry: str = "models"
    test_set: str = ""


class PrivacySection(Section):
    """What is kept, and for how long."""

    retention_days: Annotated[int, Field(ge=0)] = 0
    notice: str = "本群已启用豆解：它记录群聊文字，用来理解提问中的指代。发送「/dj opt out」即不再记录并删除你的消息。"
    post_notice: bool = True


class WebSection(Section):
    """Local pages and metrics."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 0
    token: SecretStr = SecretStr("")


class Config(Section):
    """The whole configuration. ``source`` names the file it came from, for error messages."""

    bot: BotSection = BotSection()
    merge: MergeSection = MergeSection()
    filter: FilterSection = FilterSection()
    gate: GateSection = GateSection()
    resolver: ResolverSection = ResolverSection()
    storage: StorageSection = StorageSection()
    wechat: WechatSection = WechatSection()
    feishu: FeishuSection = FeishuSection()
    answer: AnswerSection = AnswerSection()
    relabel: RelabelSection = RelabelSection()
    privacy: PrivacySection = PrivacySection()
    web: WebSection = WebSection()
    source: str = "defaults"


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation for name, field in Config.model_fields.items() if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def load_config(path: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Mapping[str, Any]) -> Config:
    """Read ``path`` (or defaults when None), apply the environment, then ``overrides`` ({section: {key: value}}, from the command line).

    :raises ConfigError: for an unreadable file, an unknown section or key, or a bad value.
    """
    source = str(path) if path else "defaults"
    values: dict[str, dict[str, Any]] = _read_ini(path) if path else {}
    origins: dict[tuple[str, str], str] = {}
    for section, key, name, value in _from_environment(os.environ if environment is None else environment):
        values.setdefault(section, {})[key] = value
        origins[section, key] = f"environment {name}"
    for section, pairs in overrides.items():
        for key, value in pairs.items():
            values.setdefault(section, {})[key] = value
            origins[section, key] = "command line"
    for section, pairs in values.items():
        if section not in SECTIONS:
            where = next((origins[section, key] for key in pairs if (section, key) in origins), source)
            raise ConfigError(section, "", None, "unknown section", _did_you_mean(section, SECTIONS), where)
    sections = {section: _build(section, pairs, source, origins) for section, pairs in values.items()}
    return Config.model_validate({"source": source, **sections})


def _read_ini(path: Path) -> dict[str, dict[str, Any]]:
    # An inline comment needs white space before its sign. No header can name an empty default section, so [DEFAULT] is an unknown section like any other.
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), strict=True, default_section="")
    where = str(path)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=where)
    except FileNotFoundError:
        raise ConfigError("", "", None, "file not found", "Copy config.example.ini to this path, or leave --config out to use the defaults.", where) from None
    except OSError as error:
        raise ConfigError("", "", None, f"cannot be read: {error.strerror or error}", "Check the path and its permissions.", where) from None
    except UnicodeDecodeError:
        raise ConfigError("", "", None, "is not UTF-8 text", "Save the file with the encoding UTF-8.", where) from None
    except configparser.Error as error:
        raise _ini_error(error, where) from None
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _ini_error(error: configparser.Error, where: str) -> ConfigError:
    """The texts of configparser show whole lines, with the secrets in them: tell the line's number instead."""
    if isinstance(error, configparser.DuplicateOptionError):
        return ConfigError(error.section, error.option, None, f"given a second time in line {error.lineno}", "Keep one of the two.", where)
    if isinstance(error, configparser.DuplicateSectionError):
        return ConfigError(error.section, "", None, f"section begins a second time in line {error.lineno}", "Put all its keys under one header.", where)
    if isinstance(error, configparser.MissingSectionHeaderError):
        return ConfigError("", "", None, f"line {error.lineno} stands before any [section]", "Begin with a header such as [bot].", where)
    line = error.errors[0][0] if isinstance(error, configparser.ParsingError) and error.errors else "?"
    return ConfigError("", "", None, f"line {line} cannot be read", "Lines are 'key = value' under a '[section]'; comments begin with '#'.", where)


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    found = []
    for name, value in environment.items():
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if separator:
            found.append((section, key, name, value.strip()))  # as in a file; secrets that are mounted end in a line feed
            continue
        section, _, key = section.partition("_")
        if section in SECTIONS and key in SECTIONS[section].model_fields:
            raise ConfigError(section, key, None, "one underscore between section and key", f"Write {ENVIRONMENT_PREFIX}{section.upper()}__{key.upper()}.", f"environment {name}")
    return sorted(found)


def _build(section: str, pairs: Mapping[str, Any], source: str, origins: Mapping[tuple[str, str], str]) -> Section:
    model = SECTIONS[section]
    given = {key: (None if value == "" and _is_optional(model, key) else value) for key, value in pairs.items()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = origins.get((section, key), source)
        if first["type"] == "extra_forbidden":
            raise ConfigError(section, key, None, "unknown key", _did_you_mean(key, model.model_fields), where) from None
        shown = "(secret)" if _is_secret(model, key) else _without_password(pairs[key])
        raise ConfigError(section, key, shown, _plain(first), f"See [{section}] {key} in config.example.ini.", where) from None


def _is_optional(model: type[Section], key: str) -> bool:
    field = model.model_fields.get(key)
    return field is not None and type(None) in get_args(field.annotation)


def _is_secret(model: type[Section], key: str) -> bool:
    field = model.model_fields[key]
    return "SecretStr" in str(field.annotation) or not field.repr


def _without_password(value: object) -> str:
    return re.sub(r"//\S*@", "//***@", str(value))


def _plain(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
