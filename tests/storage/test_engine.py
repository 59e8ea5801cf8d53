# ruff: noqa: ASYNC240 (nothing else runs in these loops)
from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from core.errors import StorageError
from core.messages import ConversationKey
from storage import migrations
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.models import metadata
from storage.questions import SqlQuestionLog
from tests.storage.samples import ask, message

pytestmark = pytest.mark.sqlite  # files, locks and rights

ROOT = Path(__file__).parents[2]
WAIT = 120.0
"""Seconds for a process of a test: a busy machine may need many."""


def start(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A process of its own that runs ``code`` with the project on its path."""
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


async def refusal(url: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await (await open_database(url, busy_timeout=0.05)).close()
    assert "\n" not in str(caught.value)
    return caught.value


async def test_an_empty_directory_gets_a_database_that_only_its_owner_reads(url: str, path: Path) -> None:
    database = await open_database(url)
    assert await SqlInbox(database).add([message(1)]) == [message(1)]
    await database.close()
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_migrations_make_the_schema_of_the_models(url: str, path: Path) -> None:
    await (await open_database(url)).close()
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []


async def test_questions_of_an_earlier_version_are_kept_and_quote_nothing_unseen(url: str, path: Path) -> None:
    database = await open_database(url)
    await SqlInbox(database).add([message(1)])
    await SqlQuestionLog(database).record(*ask(message(1)))
    await database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE questions DROP COLUMN quotes_unseen")
        connection.execute("UPDATE alembic_version SET version_num = '0004'")
    database = await open_database(url)
    assert await SqlQuestionLog(database).unjudged() == [ask(message(1))[1]]
    await database.close()


def test_head_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


async def test_opening_and_closing_again_changes_nothing(url: str) -> None:
    for _ in range(3):
        database = await open_database(url)
        await SqlInbox(database).add([message(1)])
        assert await SqlInbox(database).count() == 1
        await database.close()
        await database.close()


async def test_a_closed_database_says_so(url: str) -> None:
    database = await open_database(url)
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await SqlInbox(database).add([message(1)])


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:////no/such/place/doujie.db", "/no/such/place does not exist"),
        ("sqlite:///{tmp}", "is a directory"),
        ("sqlite://", "in memory"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "file: form"),
        ("mysql://root:hunter2@localhost/x", "no such kind"),
        ("doujie.db", "not a database URL"),
        ("postgresql://doujie:p@ss:hunter2@localhost/x", "not a database URL"),
        ("postgresql://doujie:p@hunter2@localhost/x", "%40"),
    ],
)
async def test_a_url_that_cannot_be_used_is_the_configs_fault(url: str, problem: str, tmp_path: Path) -> None:
    error = await refusal(url.replace("{tmp}", str(tmp_path)))
    assert problem in str(error)
    assert "hunter2" not in str(error)
    assert error.exit_code == 2


async def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("asyncpg")
    error = await refusal("postgresql://doujie:hunter2@127.0.0.1:1/doujie")
    assert "cannot be reached" in str(error)
    assert "hunter2" not in str(error)


async def test_a_file_that_is_no_database(url: str, path: Path) -> None:
    path.write_bytes(b"this is a letter to my aunt " * 1000)
    assert "not an SQLite database" in str(await refusal(url))
    assert path.read_bytes().startswith(b"this is a letter")


async def test_a_damaged_database(url: str, path: Path) -> None:
    await (await open_database(url)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    assert "damaged" in str(await refusal(url))


async def test_a_database_of_a_newer_version(url: str, path: Path) -> None:
    await (await open_database(url)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    error = await refusal(url)
    assert "newer version" in str(error)
    assert "9999" in str(error)


async def test_a_database_of_another_program(url: str, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE messages (id)")
    assert "another program" in str(await refusal(url))


async def test_locked_at_start_and_while_writing(url: str, path: Path) -> None:
    database = await open_database(url, busy_timeout=0.05, patience=0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert "locked" in str(await refusal(url))
    with pytest.raises(StorageError, match="locked"):
        await SqlInbox(database).add([message(1)])
    other.execute("ROLLBACK")
    assert await SqlInbox(database).add([message(1)]) == [message(1)]
    other.close()
    await database.close()


async def test_a_short_lock_is_waited_for(url: str, path: Path) -> None:
    database = await open_database(url, busy_timeout=0.01, patience=20)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asyncio.get_running_loop().call_later(0.1, other.execute, "ROLLBACK")
    assert await SqlInbox(database).add([message(1)]) == [message(1)]
    other.close()
    await database.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
async def test_a_read_only_database(url: str, path: Path) -> None:
    await (await open_database(url)).close()
    path.chmod(0o644)
    for directory in path.parents:
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    # The interpreter may lie where only root may look: import first, change the user then.
    code = """
        import asyncio, os, sys
        import aiosqlite, sqlalchemy.dialects.sqlite.aiosqlite, sqlite3
        from core.errors import StorageError
        from storage.engine import open_database
        os.setuid(65534)
        try:
            asyncio.run(open_database(sys.argv[1]))
        except StorageError as error:
            print(error)
    """
    out, err = start(code, url).communicate(timeout=WAIT)
    assert "read-only" in out, err


async def test_a_database_that_turns_read_only(url: str) -> None:
    database = await open_database(url)
    await _pragma(database, "query_only = ON")
    with pytest.raises(StorageError, match="read-only"):
        await SqlInbox(database).add([message(1)])
    await _pragma(database, "query_only = OFF")
    assert await SqlInbox(database).add([message(1)]) == [message(1)]
    await database.close()


async def test_a_full_disk_reaches_every_caller_and_loses_nothing_acknowledged(url: str) -> None:
    database = await open_database(url)
    inbox = SqlInbox(database)
    await inbox.add([message(0)])
    await _pragma(database, "max_page_count = 60")
    answers = await asyncio.gather(*(inbox.add([message(number, "长" * 5000)]) for number in range(1, 100)), return_exceptions=True)
    assert all(isinstance(answer, StorageError) and "full" in str(answer) for answer in answers)
    await _pragma(database, "max_page_count = 100000")
    assert await inbox.add([message(number) for number in range(3)]) == [message(1), message(2)]
    await database.close()


async def test_a_file_size_limit_is_told_as_a_full_disk(url: str) -> None:
    code = """
        import asyncio, resource, sys
        from core.errors import StorageError
        from storage.engine import open_database
        from storage.inbox import SqlInbox
        from tests.storage.samples import message

        async def main():
            database = await open_database(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
            stored = 0
            try:
                for number in range(1000):
                    stored += len(await SqlInbox(database).add([message(number, "长" * 5000)]))
            except StorageError as error:
                print(stored, error)
            await database.close()

        asyncio.run(main())
    """
    out, err = start(code, url).communicate(timeout=WAIT)
    stored, _, told = out.partition(" ")
    assert "full" in told, err
    database = await open_database(url)
    assert await SqlInbox(database).count() == int(stored) > 0
    await database.close()


async def test_what_was_acknowledged_survives_kill_9(url: str) -> None:
    code = """
        import asyncio, sys
        from core.messages import Utterance
        from storage.engine import open_database
        from storage.inbox import SqlInbox
        from storage.questions import SqlQuestionLog
        from tests.storage.samples import ask, message

        async def main():
            database = await open_database(sys.argv[1])
            inbox, log = SqlInbox(database), SqlQuestionLog(database)
            for number in range(1_000_000):
                (new,) = await inbox.add([message(number)])
                print("stored", number, flush=True)
                if number % 2:
                    await log.record(*ask(new))
                    print("asked", number, flush=True)

        asyncio.run(main())
    """
    process = start(code, url)
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(60)]
    process.send_signal(signal.SIGKILL)
    lines += [line.split() for line in process.stdout.read().splitlines()]
    process.communicate(timeout=WAIT)
    stored = [int(line[1]) for line in lines if line[:1] == ["stored"] and len(line) == 2]
    asked = [int(line[1]) for line in lines if line[:1] == ["asked"] and len(line) == 2]

    database = await open_database(url)
    here = await SqlInbox(database).recent(ConversationKey("feishu", "g1"), 10_000)
    assert [m.message_id for m in here][: len(stored)] == [f"m{number}" for number in stored]
    assert len(here) - len(stored) in (0, 1)
    questions = [row.question.id async for row in SqlQuestionLog(database).export_rows()]
    assert questions[: len(asked)] == [message(number).key for number in asked]
    waiting = await SqlInbox(database).unmerged()
    unmerged = {m.message_id for m in waiting.messages if m.key not in waiting.merged}
    assert unmerged.isdisjoint(f"m{number}" for number in asked)
    await database.close()


async def test_two_processes_share_one_file(url: str) -> None:
    code = """
        import asyncio, json, sys
        from storage.engine import open_database
        from storage.inbox import SqlInbox
        from storage.questions import SqlQuestionLog
        from tests.storage.samples import ask, message

        async def main(url, share):
            database = await open_database(url)
            inbox, log = SqlInbox(database), SqlQuestionLog(database)
            new = []
            for start in range(0, 200, 10):
                both = [message(number) for number in range(start, start + 10)]
                own = [message(number, chat=share) for number in range(start, start + 10)]
                new += [m.key for m in await inbox.add(both + own)]
                await asyncio.gather(*(log.record(*ask(m)) for m in own))
            await database.close()
            print(json.dumps(new))

        asyncio.run(main(*sys.argv[1:]))
    """
    processes = [start(code, url, share) for share in ("a", "b")]
    results = [process.communicate(timeout=WAIT) for process in processes]
    new = [key for out, err in results for key in json.loads(out or "[]")]
    assert sorted(new) == sorted(message(number, chat=chat).key for number in range(200) for chat in ("a", "b", "g1")), results
    database = await open_database(url)
    assert await SqlInbox(database).count() == 600
    assert (await SqlQuestionLog(database).counts()).questions == 400
    await database.close()


async def test_errors_and_logs_never_show_what_members_wrote(database: Database) -> None:
    inbox, log = SqlInbox(database), SqlQuestionLog(database)
    await inbox.add([message(1, "zebrafish")])
    utterance, question = ask(message(1, "zebrafish \ud800"))
    with pytest.raises(Exception) as caught:
        await log.record(utterance, question)
    assert "zebrafish" not in str(caught.value)


async def _pragma(database: Database, pragma: str) -> None:
    """On the writer's one connection, from outside of any transaction."""
    engine = database._writer_engine
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.execute(f"PRAGMA {pragma}")
