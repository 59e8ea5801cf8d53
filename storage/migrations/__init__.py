"""Schema migrations: Alembic scripts in ``versions``, run at every start."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.errors import StorageError

HEAD = "0005"
"""The newest revision in ``versions``."""


def migrate(connection: Connection, url: str) -> None:
    """Bring the schema to :data:`HEAD` inside the caller's transaction. Raises StorageError when the database is of a newer version or somebody else's."""
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if "alembic_version" in tables:
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if version == HEAD:
            return
    elif "messages" in tables or "questions" in tables:
        raise StorageError(url, "belongs to another program (it has tables of the same names, but no version)", "Set [storage] url to another file")
    _upgrade(connection, url)


def _upgrade(connection: Connection, url: str) -> None:
    # Alembic takes 0.2 s to import: most starts do not need it.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for version in MigrationContext.configure(connection).get_current_heads():
        if version not in known:
            problem = f"written by a newer version of doujie (schema {version}, this one knows {HEAD})"
            raise StorageError(url, problem, "Update doujie, or restore the backup made before the update")
    command.upgrade(config, "head")
