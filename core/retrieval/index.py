"""The index of one memory, and the search over the indexes of a bank.

A memory's own signals never depend on its neighbours, so that the samples taken when it was made stay true in
any bank. Only the ranking compares memories: cosine and BM25, fused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.files import INDEX_FILE, INDEX_VECTORS_FILE
from core.errors import AdapterInvalid
from core.gate.features import RetrievalSignals
from core.retrieval.compact import STEPS
from core.retrieval.lexical import overlap, terms
from core.retrieval.topics import without_topic

LEXICAL_WEIGHT = 0.3
"""The best BM25 hit weighs as much as this difference in cosine."""


Encode = Callable[[Sequence[str]], Tensor]
"""Texts to vectors `[n, d]` of length 1."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryIndex:
    """What retrieval knows of one memory: `embeddings[i]` `[n, d]`, fp32 of length 1, is of `entries[i]`.

    `statements` `[m, d]` are of what self-study asks and answers, without the words of `topic`; they are not searched.
    """

    memory_id: str
    title: str
    entries: Sequence[str]
    embeddings: Tensor
    topic: str = ""
    statements: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    terms: tuple[str, ...] = field(init=False, repr=False)
    vocabulary: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = tuple(sys.intern(term) for entry in (self.title, *self.entries) for term in terms(entry))
        object.__setattr__(self, "terms", found)
        object.__setattr__(self, "vocabulary", frozenset(found))


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that retrieval proposes: `rank` from 0, `score` comparable only within one search."""

    memory_id: str
    rank: int
    score: float


def retrieval_signals(query: str, query_embedding: Tensor, index: MemoryIndex, encode: Encode) -> RetrievalSignals:
    """How well `index` matches `query`, whatever else is in the bank; `query_embedding` is `[d]`, of length 1.

    `encode` is asked for the query without the memory's topic, where that is another text. An index without statements
    is matched by its entries.
    """
    dense = _nearest(index.embeddings, query_embedding)
    bare = without_topic(query, index.topic)
    embedding = query_embedding if bare == query else encode([bare])[0]
    matched = _nearest(index.statements, embedding) if len(index.statements) else dense
    return RetrievalSignals(dense=dense, lexical=overlap(query, index.vocabulary), matched=matched)


def _nearest(vectors: Tensor, query: Tensor) -> float:
    return float((vectors @ query).max()) if len(vectors) else 0.0


class BankIndex:
    """Immutable search over the memories of a bank; safe to share between threads."""

    def __init__(self, indexes: Sequence[MemoryIndex]) -> None:
        self._indexes = [index for index in indexes if len(index.entries)]
        self._vectors = torch.cat([index.embeddings for index in self._indexes]) if self._indexes else torch.zeros(0, 0)
        sizes = torch.tensor([len(index.embeddings) for index in self._indexes], dtype=torch.long)
        self._owner = torch.arange(len(self._indexes)).repeat_interleave(sizes)
        self._bm25 = _bm25([index.terms for index in self._indexes])

    def __len__(self) -> int:
        return len(self._indexes)

    def search(self, query: str, query_embedding: Tensor, top_k: int, ids: Collection[str] | None = None) -> list[Hit]:
        """The `top_k` best memories for `query`, of those in `ids` if given; ties go to the lower memory id."""
        allowed = [i for i, index in enumerate(self._indexes) if ids is None or index.memory_id in ids]
        if not allowed or top_k < 1:
            return []
        scores = self._dense(query_embedding)[allowed]
        lexical = self._lexical(query)[allowed]
        if lexical.max() > 0:
            scores = scores + LEXICAL_WEIGHT * lexical / lexical.max()
        best = sorted(range(len(allowed)), key=lambda i: (-scores[i], self._indexes[allowed[i]].memory_id))[:top_k]
        return [Hit(self._indexes[allowed[i]].memory_id, rank, float(scores[i])) for rank, i in enumerate(best)]

    def _dense(self, query_embedding: Tensor) -> NDArray[np.float32]:
        """The highest cosine of each memory, `[memories]`."""
        cosines = self._vectors @ query_embedding
        best = torch.full((len(self._indexes),), -1.0)
        return best.scatter_reduce(0, self._owner, cosines, "amax").numpy()

    def _lexical(self, query: str) -> NDArray[np.float32]:
        asked = terms(query)
        if self._bm25 is None or not asked:
            return np.zeros(len(self._indexes), dtype=np.float32)
        scores: NDArray[np.float32] = self._bm25.get_scores(asked)
        return scores


def rounded(vectors: Tensor) -> Tensor:
    """Vectors `[n, d]` with coordinates in -1 to 1 as they are published: in steps of 1/127, fp32.

    A cosine moves by less than 0.01; a quarter of the bytes.
    """
    return _bytes(vectors).float() / STEPS


def _bytes(vectors: Tensor) -> Tensor:
    return (vectors.float() * STEPS).round().clamp(-STEPS, STEPS).to(torch.int8)


def save_index(directory: Path, index: MemoryIndex, encoder: str, study: Mapping[str, Any] | None = None) -> None:
    """Writes `index.safetensors`, a byte a number, and `index.json`.

    `encoder` is the reference of the encoder that made the vectors.
    """
    vectors = {"embeddings": index.embeddings, "statements": index.statements}
    save_file({name: _bytes(each).contiguous() for name, each in vectors.items()}, directory / INDEX_VECTORS_FILE)
    fields = {
        "memory_id": index.memory_id,
        "title": index.title,
        "topic": index.topic,
        "entries": list(index.entries),
        "encoder": encoder,
        "study": dict(study or {}),
    }
    (directory / INDEX_FILE).write_text(json.dumps(fields, ensure_ascii=False, indent=1), encoding="utf-8")


def load_index(directory: Path, *, encoder: str | None = None) -> MemoryIndex:
    """Reads what `save_index` wrote.

    Raises `AdapterInvalid` where a file is missing or does not fit the other, or where the vectors are of another
    encoder than `encoder`.
    """
    try:
        fields = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8"))
        vectors = load_file(directory / INDEX_VECTORS_FILE)
        embeddings, statements = (vectors[name].float() / STEPS for name in ("embeddings", "statements"))
        if any(each.dtype != torch.int8 for each in vectors.values()):
            raise TypeError("vectors of another type than int8")
        names = ("memory_id", "title", "topic", "encoder", "entries")
        memory_id, title, topic, made_by, entries = (fields[name] for name in names)
        if not all(isinstance(text, str) for text in (memory_id, title, topic, made_by, *entries)):
            raise TypeError("an entry is not text")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise AdapterInvalid(f"The memory's index can't be read: {problem}") from problem
    if encoder is not None and made_by != encoder:
        raise AdapterInvalid(f"The memory's index was made by the encoder {made_by}, this bank uses {encoder}.")
    if not embeddings.ndim == statements.ndim == 2 or len(embeddings) != len(entries):
        raise AdapterInvalid("The memory's index has vectors that do not fit its entries.")
    return MemoryIndex(memory_id, title, tuple(entries), embeddings, topic, statements)


def _bm25(documents: Sequence[tuple[str, ...]]) -> Any:
    """BM25 with one document per memory, or `None` where there is not one word to index."""
    if not any(documents):
        return None
    bm25 = bm25s.BM25()
    bm25.index([list(document) for document in documents], show_progress=False)
    return bm25
