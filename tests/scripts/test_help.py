"""What the commands say of themselves."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from scripts import cycle, relabel, scaling


@pytest.mark.parametrize(
    ("app", "command", "sections"),
    [(relabel.app, [], {"[relabel] days back", "that of [relabel]"}), (cycle.app, ["run"], {"[relabel] test_set"}), (scaling.app, [], {"lengths of [gate]"})],
)
def test_sections_of_the_config_are_named(app: object, command: list[str], sections: set[str]) -> None:
    """Square brackets are mark-up to the help's printer: they used to vanish."""
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "250"})  # type: ignore[arg-type]
    assert shown.exit_code == 0
    assert {section for section in sections if section not in shown.output} == set()
