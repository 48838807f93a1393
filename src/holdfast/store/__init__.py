"""Stores: carry out what `core.commit` decided, on SQLite and on PostgreSQL."""
