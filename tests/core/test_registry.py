"""The registry: whole versions or none, hashes that are checked, an atomic switch, and a way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import InputError
from core.registry import ADAPTER, CALIBRATION, HEAD, KEPT, Registry

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def files(folder: Path, text: str = "a") -> dict[str, Path]:
    """An adapter and a calibration of no use but of the right form."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "some.gguf").write_bytes(b"GGUF" + text.encode())
    (folder / "some.json").write_text(json.dumps({"of": text}))
    return {ADAPTER: folder / "some.gguf", CALIBRATION: folder / "some.json"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", lambda: NOW)


def add(registry: Registry, tmp_path: Path, text: str = "a") -> int:
    return registry.add(files(tmp_path / "made", text), "base", {"run": text}).number


def test_without_a_folder_the_shipped_one_serves(registry: Registry) -> None:
    assert registry.stamp() == b""
    assert registry.current().version == 0
    assert registry.serving() is None
    assert registry.numbers() == []


def test_a_version_is_whole_and_does_not_serve_until_it_is_promoted(registry: Registry, tmp_path: Path) -> None:
    number = add(registry, tmp_path)
    version = registry.open(number)
    assert (number, version.base, version.about, version.head) == (1, "base", {"run": "a"}, None)
    assert version.adapter.read_bytes() == b"GGUFa"
    assert version.created_at == NOW.isoformat(timespec="seconds")
    assert registry.serving() is None
    registry.promote(number)
    serving = registry.serving()
    assert serving is not None
    assert serving.number == 1
    assert [entry.name for entry in registry.folder.iterdir() if entry.name.startswith(".")] == [], "nothing half made is left"


def test_back_to_the_version_before_and_to_what_is_shipped(registry: Registry, tmp_path: Path) -> None:
    for text in "abc":
        registry.promote(add(registry, tmp_path, text))
    assert registry.current().history == (2, 1)
    assert registry.rollback().version == 2
    assert registry.rollback().version == 1
    assert registry.rollback().version == 0
    assert registry.serving() is None
    with pytest.raises(InputError, match="nothing to go back to"):
        registry.rollback()


def test_the_way_back_leads_around_a_broken_version(registry: Registry, tmp_path: Path) -> None:
    for text in "abc":
        registry.promote(add(registry, tmp_path, text))
    registry.open(2).adapter.write_bytes(b"GGUFx")
    assert registry.rollback().version == 1


def test_the_last_three_that_served_are_kept_and_the_newest(registry: Registry, tmp_path: Path) -> None:
    for text in "abcde":
        registry.promote(add(registry, tmp_path, text))
    add(registry, tmp_path, "f")
    add(registry, tmp_path, "g")
    assert registry.prune() == [1, 2, 6]
    assert registry.numbers() == [3, 4, 5, 7]
    assert len({registry.current().version, *registry.current().history}) == KEPT
    assert add(registry, tmp_path, "h") == 8, "a number is never used twice"


def test_what_a_kill_left_half_written_goes_with_the_old_versions(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path)
    half = registry.folder / ".new-2-1"
    half.mkdir()
    (half / ADAPTER).write_bytes(b"GGUF")
    assert (registry.prune(), registry.numbers(), half.exists()) == ([], [1], False)


def test_what_was_changed_afterwards_is_refused(registry: Registry, tmp_path: Path) -> None:
    number = add(registry, tmp_path)
    registry.promote(number)
    adapter = registry.open(number).adapter
    adapter.write_bytes(b"GGUFb")
    with pytest.raises(InputError, match="has changed"):
        registry.serving()
    adapter.write_bytes(b"GGUFa")
    manifest = registry.folder / "0001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"base"', '"base" '))
    with pytest.raises(InputError, match="not what was promoted"):
        registry.serving()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is broken"), ("[]", "is broken"), ('{"format": 1}', "is broken"), ('{"format": 2, "version": 1, "manifest": "", "history": [], "promoted_at": ""}', "format 2")],
)
def test_a_broken_current_file_says_what_to_do(registry: Registry, text: str, said: str) -> None:
    registry.folder.mkdir()
    (registry.folder / "current.json").write_text(text)
    with pytest.raises(InputError, match=said):
        registry.serving()


def test_only_known_names_in_safe_formats(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evil\.pkl"):
        registry.add({**files(tmp_path), "evil.pkl": tmp_path / "some.json"}, "base", {})
    with pytest.raises(InputError, match=r"lacks calibration\.json"):
        registry.add({ADAPTER: tmp_path / "some.gguf"}, "base", {})
    no_gguf = {**files(tmp_path), ADAPTER: tmp_path / "some.json"}
    with pytest.raises(InputError, match="is no GGUF file"):
        registry.add(no_gguf, "base", {})
    assert registry.numbers() == [], "what is refused leaves nothing behind"
    number = add(registry, tmp_path)
    manifest = registry.folder / f"{number:04d}" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "files": {ADAPTER: 1, CALIBRATION: 2}}))
    with pytest.raises(InputError, match="is broken"):
        registry.open(number)


def test_a_name_outside_the_version_cannot_be_given(registry: Registry, tmp_path: Path) -> None:
    number = add(registry, tmp_path)
    manifest = registry.folder / f"{number:04d}" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["files"]["../../secret"] = values["files"][ADAPTER]
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match="which no version has"):
        registry.open(number)


def test_a_version_that_is_not_there_lists_those_that_are(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path)
    with pytest.raises(InputError, match=r"no such version.*1"):
        registry.open(7)


def test_a_head_belongs_to_the_version_that_has_one(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "head.npz").write_bytes(b"x")
    version = registry.add({**files(tmp_path), HEAD: tmp_path / "head.npz"}, "base", {})
    assert version.head == version.folder / HEAD


def test_only_one_process_changes_a_registry(registry: Registry) -> None:
    with registry.locked():
        code = "import sys; from pathlib import Path; from core.registry import Registry\nwith Registry(Path(sys.argv[1])).locked(): pass"
        other = subprocess.run([sys.executable, "-c", code, str(registry.folder)], capture_output=True, text=True, check=False)
        assert "another process changes this registry" in other.stderr
    with registry.locked():
        pass  # free again


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_says_so(registry: Registry, tmp_path: Path) -> None:
    registry.folder.mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        add(registry, tmp_path)


def test_a_registry_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    with pytest.raises(InputError, match="cannot be written: File exists"), Registry(tmp_path / "models").locked():
        pass
