"""Base KV of prefixes by content, in blocks, shared by candidates, by turns of a chat and by a tenant's requests.

A block's key is a hash over base digest, tenant salt, parent block and token ids. No adapter is in it, because a prefix
never sees one; the salt keeps tenants apart, so that no one can learn by timing what another has asked.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passes, run_alone
from core.engine.rows import Rows


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`queries` and `hits` count tokens since the start, as vLLM's metrics do; `blocks` are held now, in `bytes`."""

    queries: int
    hits: int
    evictions: int
    blocks: int
    bytes: int
    max_bytes: int

    @property
    def usage(self) -> float:
        """Share of the cache in use, 0 to 1."""
        return self.bytes / self.max_bytes if self.max_bytes else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """`salt` is in the key too, but can't be read from it."""

    kv: PrefixKv
    salt: str


class PrefixCache:
    """Blocks of `block_tokens` tokens in at most `max_bytes`, least recently used out.

    Its tables are thread-safe; the model is its owner's, who lets one thread at a time run it.
    """

    def __init__(self, base_digest: str, max_bytes: int, block_tokens: int) -> None:
        self._base = base_digest
        self._max_bytes = max_bytes
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = self._queries = self._hits = self._evictions = 0

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            held = len(self._blocks), self._bytes, self._max_bytes
            return CacheStats(self._queries, self._hits, self._evictions, *held)

    def prefill(self, model: Any, tokens: Sequence[int], salt: str) -> tuple[PrefixKv, int]:
        """As `prefilling`, run by itself."""
        return run_alone(model, self.prefilling(model, tokens, salt))

    def prefilling(self, model: Any, tokens: Sequence[int], salt: str) -> Passes[tuple[PrefixKv, int]]:
        """The base's KV of `tokens`, and how many of them came from the cache. The KV is shared: never write to it.

        What is missing is computed one block at a time, cold or warm, so that the same tokens give the same KV whatever
        was cached, and a long prompt does not hold up the rows that write.
        """
        keys = self._keys(tokens, salt)
        found = self._take(keys, len(tokens))
        reused = len(found) * self._block_tokens
        past = PrefixKv.join(found) if found else PrefixKv.empty(model)
        if reused == len(tokens):
            return past, reused
        rows = Rows(model, [past], room=len(tokens) - reused)
        for start in range(reused, len(tokens), self._block_tokens):
            yield Feed(rows, [tokens[start : start + self._block_tokens]], keep=0)
        kv = rows.kv(0)
        self._put(keys, len(found), kv, salt)
        return kv, reused

    @property
    def salts(self) -> frozenset[str]:
        """The salts of all blocks held."""
        with self._lock:
            return frozenset(block.salt for block in self._blocks.values())

    def forget(self, salt: str) -> None:
        """Drops every block of `salt`, and nothing else."""
        with self._lock:
            for key in [key for key, block in self._blocks.items() if block.salt == salt]:
                self._bytes -= self._blocks.pop(key).kv.nbytes

    def clear(self) -> None:
        """Forgets every block."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0

    def _keys(self, tokens: Sequence[int], salt: str) -> list[bytes]:
        """The keys of the whole blocks of `tokens`, each of which names everything before it too."""
        keys: list[bytes] = []
        parent = b""
        for end in range(self._block_tokens, len(tokens) + 1, self._block_tokens):
            block = tokens[end - self._block_tokens : end]
            parent = _digest(self._base.encode(), salt.encode(), parent, struct.pack(f"<{len(block)}q", *block))
            keys.append(parent)
        return keys

    def _take(self, keys: Sequence[bytes], tokens: int) -> list[PrefixKv]:
        """The longest chain of cached blocks."""
        with self._lock:
            found: list[PrefixKv] = []
            for key in keys:
                if key not in self._blocks:
                    break
                found.append(self._blocks[key].kv)
            self._touch(keys[: len(found)])
            self._queries += tokens
            self._hits += len(found) * self._block_tokens
            return found

    def _put(self, keys: Sequence[bytes], known: int, kv: PrefixKv, salt: str) -> None:
        size = self._block_tokens
        # What the budget could not hold with its head is not cut out first.
        keys = keys[: self._max_bytes // (kv.nbytes // len(kv) * size)]
        fresh = [(keys[i], _Block(kv.cut(i * size, (i + 1) * size), salt)) for i in range(known, len(keys))]
        with self._lock:
            if any(key not in self._blocks for key in keys[:known]):
                return  # Evicted meanwhile: blocks without their head could never be found.
            for key, block in fresh:
                if key not in self._blocks:
                    self._blocks[key] = block
                    self._bytes += block.kv.nbytes
            self._touch(keys)
            while self._bytes > self._max_bytes:
                self._bytes -= self._blocks.popitem(last=False)[1].kv.nbytes
                self._evictions += 1

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Marks a chain as just used, its head last: a block never outlives the blocks that lead to it."""
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)


def _digest(*parts: bytes) -> bytes:
    """SHA-256 over the parts, each with its length before it, so that no two lists of parts read alike."""
    total = hashlib.sha256()
    for part in parts:
        total.update(struct.pack("<Q", len(part)) + part)
    return total.digest()
