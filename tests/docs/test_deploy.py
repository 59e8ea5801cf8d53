from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

from core.config import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNIT = DEPLOY / "doujie@.service"
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
    assert [step["value"] for step in steps if step["instruction"] == "USER"] == ["doujie"]


def test_what_the_dockerfile_sets_is_a_config_that_loads() -> None:
    parser = DockerfileParser(path=str(DEPLOY / "Dockerfile"))
    config = load_config(environment={name: value for name, value in parser.envs.items() if name.startswith("DOUJIE_")})
    assert config.storage.url == "sqlite:////data/doujie.db"
    assert f"EXPOSE {config.web.port}" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_the_unit_sets_a_config_that_loads() -> None:
    environment = dict(pair.split("=", 1) for pair in unit()["Service"]["Environment"].split() if pair.startswith("DOUJIE_"))
    assert load_config(environment=environment).bot.log_format == "json"


def test_compose_runs_the_bots_of_this_image_and_publishes_to_this_machine_alone() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"feishu", "wechat"}
    for name, service in compose["services"].items():
        assert service["command"][0] == f"bots.{name}"
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {volume.split(":")[0] for volume in service["volumes"]} - {"./config.ini"} <= set(compose["volumes"])
