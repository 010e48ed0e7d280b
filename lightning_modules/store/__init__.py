"""The states of millions of streams, on disk, with a bounded part of them in memory.

- `store`: `StateStore`, a mapping from the key of a stream to its tensors; shards, flushes and recovery.
- `records`: tensors of many streams as rows of bytes, and the part of a store that is in memory.
- `keys`: keys of streams and their hashes.
"""

from lightning_modules.store.store import StateStore

__all__ = ["StateStore"]
