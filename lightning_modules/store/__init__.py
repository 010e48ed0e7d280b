"""The states of millions of streams, on disk."""

from lightning_modules.store.store import StateStore

__all__ = ["StateStore"]
