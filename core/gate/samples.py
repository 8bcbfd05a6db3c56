"""What a memory brings to the gate of its bank: the features of questions whose right decision is known.

They are made once, at distillation, with the adapter that is published beside them, so that a bank's gate can be fitted
again whenever the bank changes, without touching an adapter.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from core.adapters.files import CALIBRATION_FILE
from core.errors import AdapterInvalid
from core.gate.features import FEATURES

Kind = Literal["own", "near_miss", "unrelated", "wrong_adapter"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NEGATIVE_KINDS: tuple[Kind, ...] = KINDS[1:]
_ROW = struct.Struct(f"<B{len(FEATURES)}d")
_NAMES = hashlib.sha256("\n".join(FEATURES).encode()).digest()


@dataclass(frozen=True, slots=True)
class Sample:
    """One question as the gate saw it; `features` in the order of `core.gate.features.FEATURES`.

    `own`: a held-out question that the memory answers. `near_miss`: of the same subject, but its text does not say.
    `unrelated`: everyday, or about invented things. `wrong_adapter`: another memory's question.
    """

    kind: Kind
    features: tuple[float, ...]


def count_by_kind(samples: Sequence[Sample]) -> dict[str, int]:
    """How many samples there are of each kind, zeros included."""
    counted = Counter(sample.kind for sample in samples)
    return {kind: counted[kind] for kind in KINDS}


def save_samples(directory: Path, samples: Sequence[Sample]) -> None:
    """Writes `calibration.json`: the features' names, then a row for each sample, its kind first."""
    rows = [[sample.kind, *sample.features] for sample in samples]
    text = json.dumps({"features": list(FEATURES), "samples": rows}, allow_nan=False)
    (directory / CALIBRATION_FILE).write_text(text, encoding="utf-8")


def load_samples(directory: Path) -> tuple[Sample, ...]:
    """Reads what `save_samples` wrote; it may be empty.

    Raises `AdapterInvalid` where the file is missing or odd, or has other features than this version computes.
    """
    try:
        fields = json.loads((directory / CALIBRATION_FILE).read_text(encoding="utf-8"))
        if tuple(fields["features"]) != FEATURES:
            raise ValueError("it was made of other features than this version computes")
        return tuple(_sample(kind, features) for kind, *features in fields["samples"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise AdapterInvalid(f"The memory's calibration can't be used: {problem!r:.200}") from problem


def pack_samples(samples: Sequence[Sample]) -> bytes:
    """As little as keeps every bit of them: a digest of the features' names, then a byte and eight a feature each."""
    return zlib.compress(_NAMES + b"".join(_ROW.pack(KINDS.index(one.kind), *one.features) for one in samples))


def unpack_samples(packed: bytes) -> tuple[Sample, ...]:
    """What `pack_samples` made. Raises `AdapterInvalid` where it did not, or of other features than there are now."""
    try:
        data = zlib.decompress(packed)
        if not data.startswith(_NAMES):
            raise ValueError("it was made of other features than this version computes")
        return tuple(_sample(KINDS[kind], features) for kind, *features in _ROW.iter_unpack(data[len(_NAMES) :]))
    except (ValueError, IndexError, zlib.error, struct.error) as problem:
        raise AdapterInvalid(f"The memory's samples can't be used: {problem!r:.200}") from problem


def _sample(kind: Kind, features: list[float]) -> Sample:
    if kind not in KINDS:
        raise ValueError(f"{kind!r:.40} is no kind of question")
    row = tuple(float(value) for value in features)
    if len(row) != len(FEATURES) or not all(map(math.isfinite, row)):
        raise ValueError("a sample lacks a feature or has one that is not finite")
    return Sample(kind, row)
