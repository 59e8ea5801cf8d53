"""Durable storage of doujie: SQLite by default, PostgreSQL by URL. Implements the storage ports of ``core.ports``."""
