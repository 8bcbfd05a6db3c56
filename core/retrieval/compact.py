"""How a memory is found, in a few kilobytes: the vectors that stand for most of its entries, its words as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from core.adapters.files import INDEX_FILE, INDEX_VECTORS_FILE
from core.errors import AdapterInvalid
from core.gate.samples import load_samples, pack_samples
from core.retrieval.lexical import terms
from core.truth.records import RetrievalRecord

STEPS = 127.0
"""A coordinate of 1 as a byte, as in a published index: of one with no more entries than fit, nothing is lost."""
MOST_VECTORS = 32
"""A record holds so many; a bank of many memories takes the first few of each."""
_WORD = np.dtype([("term", "<u8"), ("count", "<u2")])


@dataclass(frozen=True, slots=True, eq=False)
class Compact:
    """`vectors` `[n, d]` int8, those that stand for most first; `terms` distinct, sorted, each with its `counts`."""

    vectors: NDArray[np.int8]
    terms: NDArray[np.uint64]
    counts: NDArray[np.uint16]


def record_of(directory: Path, memory_id: str) -> RetrievalRecord:
    """The record of the memory whose files are in `directory`. Raises `AdapterInvalid` where they are not its own."""
    try:
        fields = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8"))
        vectors = load_file(directory / INDEX_VECTORS_FILE)["embeddings"]
        if fields["memory_id"] != memory_id:
            raise ValueError("it is of another memory")
        if vectors.ndim != 2 or vectors.dtype != np.int8 or len(vectors) != len(fields["entries"]):
            raise ValueError("its vectors do not fit its entries")
        texts, encoder = [fields["title"], *fields["entries"]], str(fields["encoder"])
        compact = compact_of(vectors, [term for text in texts for term in terms(text)])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise AdapterInvalid(f"The memory's index can't be read: {problem}") from problem
    words = np.empty(len(compact.terms), _WORD)
    words["term"], words["count"] = compact.terms, compact.counts
    vectors, samples = compact.vectors, load_samples(directory)
    return RetrievalRecord(encoder, vectors.shape[1], vectors.tobytes(), words.tobytes(), pack_samples(samples))


def compact_of(vectors: NDArray[np.int8], terms: Sequence[str]) -> Compact:
    """Of vectors `[n, d]` as they are published and all terms of the entries, repeated as often as they occur."""
    found, counts = np.unique(hashes(terms), return_counts=True)
    return Compact(vectors[representatives(vectors)], found, np.minimum(counts, 65535).astype(np.uint16))


def read_record(record: RetrievalRecord, encoder: str) -> Compact:
    """Raises `AdapterInvalid` for another encoder's record, and for what is none."""
    if record.encoder != encoder:
        raise AdapterInvalid(f"The memory's index was made by the encoder {record.encoder}, this bank uses {encoder}.")
    try:
        vectors = np.frombuffer(record.vectors, np.int8).reshape(-1, record.dimension)
        words = np.frombuffer(record.terms, _WORD)
    except ValueError as problem:
        raise AdapterInvalid(f"The memory's retrieval record can't be read: {problem}") from problem
    return Compact(vectors, words["term"].copy(), words["count"].copy())


def hashes(terms: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each term, the same in every process; that two terms share one is not to be expected."""
    digests = b"".join(blake2b(term.encode(), digest_size=8).digest() for term in terms)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def representatives(vectors: NDArray[np.int8], most: int = MOST_VECTORS) -> list[int]:
    """Which of `vectors` `[n, d]` to keep, in the order in which they add most to how near each vector has one.

    Greedy for the facility location problem (Nemhauser, Wolsey and Fisher 1978: at least 1 - 1/e of the best), so that
    every beginning of the list is a good choice of its length. No question is looked at.
    """
    if not len(vectors):
        return []
    rows = vectors.astype(np.float32) / STEPS
    nearness = rows @ rows.T
    covered = np.full(len(rows), -1.0, dtype=np.float32)
    chosen: list[int] = []
    for _ in range(min(most, len(rows))):
        gains = np.maximum(nearness - covered, 0.0).sum(axis=1)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, nearness[chosen[-1]])
    return chosen
