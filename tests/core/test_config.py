"""What an admin meets: the example file, overrides, and messages that tell what to change."""

from __future__ import annotations

import contextlib
import re
from datetime import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.answering import DEFAULT_SYSTEM_PROMPT
from core.config import SECTIONS, Config, load_config
from core.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.ini"
SECRET = "hunter2-Zq9"  # not a real one


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.ini"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None, environment: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment or {})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value


# --- the example file


def uncommented() -> str:
    return re.sub(r"^#(\w+ =)", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def keys_of(text: str) -> set[tuple[str, str]]:
    found, section = set(), ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.match(r"(\w+) =", line):
            found.add((section, key[1]))
    return found


def test_example_documents_every_key_and_no_other() -> None:
    assert keys_of(uncommented()) == {(section, key) for section, model in SECTIONS.items() for key in model.model_fields}


def test_example_shows_the_defaults() -> None:
    assert load_config(EXAMPLE, {}).model_copy(update={"source": "defaults"}) == Config()


def test_example_with_all_its_keys_uncommented_is_still_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, uncommented()), {}).model_copy(update={"source": "defaults"}) == Config()


def test_example_tells_what_an_empty_system_prompt_means() -> None:
    assert DEFAULT_SYSTEM_PROMPT in EXAMPLE.read_text(encoding="utf-8")


def test_only_empty_keys_are_commented_out() -> None:
    commented = re.findall(r"^#\w+ =(.*)$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert commented
    assert not any(value.strip() for value in commented)


def test_every_key_has_an_english_and_a_chinese_remark() -> None:
    blocks = [block.splitlines() for block in EXAMPLE.read_text(encoding="utf-8").split("\n\n")]
    keys = [block for block in blocks if re.match(r"#?\w+ =", block[-1])]
    assert len(keys) == sum(len(model.model_fields) for model in SECTIONS.values())
    for block in keys:
        remarks = [line for line in block[:-1] if line.startswith("# ")]
        assert len(remarks) >= 2, block
        assert re.search(r"[a-z]{2}", remarks[0]), block
        assert re.search(r"[\u4e00-\u9fff]", remarks[-1]), block


# --- reading


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config(None, {}) == Config()


def test_values_comments_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeff[bot]\n# a remark\nreply = rewrite # another\nlog_level = debug\t; and one more\n\n[gate]\nencoder = no\nmodel = /models/c#.gguf\nthreshold =\n"
    config = load_config(written(tmp_path, text), {})
    assert (config.bot.reply, config.bot.log_level) == ("rewrite", "debug")
    assert (config.gate.encoder, config.gate.model, config.gate.threshold) == (False, "/models/c#.gguf", None)


def test_percent_signs_and_further_lines_are_kept(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[answer]\nsystem_prompt = 100% sure\n  or silent\n"), {})
    assert config.answer.system_prompt == "100% sure\nor silent"


@pytest.mark.parametrize(
    ("typed", "groups"),
    [
        ("ncnn 交流群", ("ncnn 交流群",)),
        ("a, b ,c", ("a", "b", "c")),
        ("部署群，标注群", ("部署群", "标注群")),
        (",a,,", ("a",)),
        ("\n  a\n  b", ("a", "b")),
        ('"算法，部署交流群", ncnn, "a,b"', ("算法，部署交流群", "ncnn", "a,b")),
        ('装了"板子"的群, "半个', ('装了"板子"的群', '"半个')),
        ("", ()),
    ],
)
def test_lists(tmp_path: Path, typed: str, groups: tuple[str, ...]) -> None:
    assert load_config(written(tmp_path, f"[bot]\ngroups = {typed}\n"), {}).bot.groups == groups


@pytest.mark.parametrize(
    ("typed", "hours"),
    [
        ("23:00-08:00", (time(23), time(8))),
        ("9:30 - 12:05", (time(9, 30), time(12, 5))),
        ("２３：００－０８：００", (time(23), time(8))),
        ("23:00~8:00", (time(23), time(8))),
        ("", None),
        ("  ", None),
    ],
)
def test_quiet_hours(typed: str, hours: tuple[time, time] | None) -> None:
    assert load_config(None, {"DOUJIE_BOT__QUIET_HOURS": typed}).bot.quiet_hours == hours


@pytest.mark.parametrize("typed", ["23-8", "25:00-08:00", "12:60-13:00", "23:00", "nachts"])
def test_bad_quiet_hours(typed: str) -> None:
    error = refused(None, {"DOUJIE_BOT__QUIET_HOURS": typed})
    assert (error.section, error.key, error.value) == ("bot", "quiet_hours", typed)


# --- the environment and the command line


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[gate]\nthreshold = 0.4\nthreads = 3\n")
    gate = load_config(path, {"DOUJIE_GATE__THRESHOLD": "0.7", "UNRELATED": "x"}).gate
    assert (gate.threshold, gate.threads) == (0.7, 3)


def test_white_space_around_a_value_of_the_environment_is_no_part_of_it() -> None:
    config = load_config(None, {"DOUJIE_FEISHU__APP_SECRET": "s3cret\n", "DOUJIE_GATE__THRESHOLD": " \r\n"})
    assert (config.feishu.app_secret.get_secret_value(), config.gate.threshold) == ("s3cret", None)


def test_real_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUJIE_GATE__THRESHOLD", "0.7")
    assert load_config().gate.threshold == 0.7


def test_command_line_overrides_the_environment() -> None:
    assert load_config(None, {"DOUJIE_GATE__BACKEND": "openai"}, gate={"backend": "none"}).gate.backend == "none"


def test_environment_errors_name_the_variable() -> None:
    assert str(refused(None, {"DOUJIE_GATE__THRESHOLD": "1.5"})).startswith("environment DOUJIE_GATE__THRESHOLD: [gate] threshold = '1.5': ")
    assert str(refused(None, {"DOUJIE_GAET__THRESHOLD": "0.5"})).startswith("environment DOUJIE_GAET__THRESHOLD: [gaet]: unknown section. Did you mean 'gate'?")
    assert str(refused(None, {"DOUJIE_GATE__TRESHOLD": "0.5"})).startswith("environment DOUJIE_GATE__TRESHOLD: [gate] treshold: unknown key. Did you mean 'threshold'?")


def test_one_underscore_too_few_is_not_overlooked() -> None:
    error = refused(None, {"DOUJIE_GATE_THRESHOLD": "0.5"})
    assert "Write DOUJIE_GATE__THRESHOLD." in str(error)
    assert load_config(None, {"DOUJIE_HOME": "/srv"}) == Config()


# --- errors


def test_unknown_section(tmp_path: Path) -> None:
    error = refused(written(tmp_path, "[gaet]\nthreshold = 0.5\n"))
    assert error.section == "gaet"
    assert "config.ini: [gaet]: unknown section. Did you mean 'gate'?" in str(error)


def test_keys_under_default_are_not_overlooked(tmp_path: Path) -> None:
    assert refused(written(tmp_path, "[DEFAULT]\nthreshold = 0.5\n")).section == "DEFAULT"


def test_unknown_key(tmp_path: Path) -> None:
    error = refused(written(tmp_path, "[gate]\ntreshold = 0.5\n"))
    assert (error.section, error.key) == ("gate", "treshold")
    assert "Did you mean 'threshold'?" in str(error)
    assert "Known: " in str(refused(written(tmp_path, "[web]\nxyzzy = 1\n")))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("gate", "threshold", "1.2"),
        ("gate", "threshold", "nan"),
        ("gate", "backend", "vllm"),
        ("gate", "encoder", "perhaps"),
        ("gate", "context_lines", "16.5"),
        ("gate", "base_url", "localhost:8000"),
        ("merge", "window_seconds", "0"),
        ("merge", "window_seconds", "inf"),
        ("merge", "max_wait_seconds", "1e300"),
        ("merge", "max_messages", ""),
        ("bot", "language", "fr"),
        ("bot", "timezone", "Asia/Shanghia"),
        ("bot", "timezone", "../etc/passwd"),
        ("feishu", "path", "feishu/events"),
        ("feishu", "path", "/feishu/{event"),
        ("web", "port", "70000"),
        ("web", "host", ""),
        ("wechat", "max_body_bytes", "1M"),
    ],
)
def test_bad_values_name_section_key_value_and_remedy(tmp_path: Path, section: str, key: str, value: str) -> None:
    error = refused(written(tmp_path, f"[{section}]\n{key} = {value}\n"))
    assert (error.section, error.key, error.value) == (section, key, value)
    assert f"config.ini: [{section}] {key} = '{value}': " in str(error)
    assert error.problem
    assert error.remedy == f"See [{section}] {key} in config.example.ini."


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[gate]\nthreshold = 0.5\nthreshold = 0.6\n", "[gate] threshold: given a second time in line 3. "),
        ("[gate]\n\n[gate]\n", "[gate]: section begins a second time in line 3. "),
        ("threshold = 0.5\n", "line 1 stands before any [section]. "),
        ("[gate]\n\nthreshold 0.5\n", "line 3 cannot be read. "),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, place: str) -> None:
    assert f"config.ini: {place}" in str(refused(written(tmp_path, text)))


def test_missing_file(tmp_path: Path) -> None:
    assert "nowhere.ini: file not found. Copy config.example.ini" in str(refused(tmp_path / "nowhere.ini"))


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read: Is a directory. Check the path" in str(refused(tmp_path))


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_another_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "config.ini"
    path.write_bytes("[bot]\ngroups = 部署群\n".encode(encoding))
    assert "is not UTF-8 text. Save the file with the encoding UTF-8." in str(refused(path))


# --- secrets

SECRET_KEYS = [("gate", "api_key"), ("resolver", "api_key"), ("answer", "api_key"), ("wechat", "token"), ("wechat", "secret")]
SECRET_KEYS += [("feishu", "app_secret"), ("feishu", "encrypt_key"), ("feishu", "verification_token")]


@pytest.mark.parametrize(("section", "key"), SECRET_KEYS)
def test_secrets_are_readable_and_not_shown(section: str, key: str) -> None:
    config = load_config(None, {f"DOUJIE_{section}__{key}".upper(): SECRET})
    assert getattr(getattr(config, section), key).get_secret_value() == SECRET
    assert SECRET not in f"{config} {config!r} {config.model_dump()} {config.model_dump_json()}"


def test_password_of_a_database_is_not_in_the_repr() -> None:
    config = load_config(None, {"DOUJIE_STORAGE__URL": f"postgresql+asyncpg://dj:{SECRET}@db/doujie"})
    assert SECRET in config.storage.url
    assert SECRET not in f"{config} {config!r}"


@pytest.mark.parametrize(
    "text",
    [
        f"app_secret = {SECRET}\n",
        f"[feishu]\napp_secret {SECRET}\n",
        f"[feishu]\napp_secret = a\napp_secret = {SECRET}\n",
        f"[feishu]\napp_secrets = {SECRET}\n",
        f"[feishu]\ndomain = ftp://bot:{SECRET}@open.feishu.cn\n",
        f"[feishu]\ndomain = ftp://bot:{SECRET}/@open.feishu.cn\n",
        f"[fieshu]\napp_secret = {SECRET}\n",
    ],
)
def test_secrets_are_not_in_errors(tmp_path: Path, text: str) -> None:
    error = refused(written(tmp_path, text))
    assert SECRET not in f"{error} {error!r} {vars(error)}"
    assert error.__context__ is None or error.__suppress_context__


def test_a_secret_of_a_wrong_type_is_not_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, feishu={"app_secret": [SECRET]})
    assert SECRET not in f"{caught.value} {vars(caught.value)}"
    assert (caught.value.section, caught.value.key) == ("feishu", "app_secret")


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="[]=:#;\n \r\tagte\u2028é中", max_size=60))
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with contextlib.suppress(ConfigError):
        assert load_config(path, {}).source == str(path)
        return
    refused(path)


# --- periodic jobs


@pytest.mark.parametrize("key", ["cron", "cycle_cron"])
def test_a_wrong_crontab_says_what_is_wrong_with_it(key: str) -> None:
    error = refused(None, {f"DOUJIE_RELABEL__{key.upper()}": "0 25 * * *"})
    assert f"[relabel] {key} = '0 25 * * *': hour '25' is not in 0-23" in str(error)


def test_cycles_may_be_left_out_and_relabelling_has_a_time() -> None:
    assert load_config(None, {"DOUJIE_RELABEL__CYCLE_CRON": " "}).relabel.cycle_cron == ""
    assert "five fields" in str(refused(None, {"DOUJIE_RELABEL__CRON": ""}))
