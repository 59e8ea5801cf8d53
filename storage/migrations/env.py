"""Alembic environment: migrates over the connection that :func:`storage.migrations.migrate` hands in, inside its transaction."""

from alembic import context

from storage.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
