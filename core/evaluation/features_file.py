"""The gate's view of every judged pair in one `.npz`, so that gates can be fitted and compared without asking again.

Arrays, a row a pair: `features` `[pairs, features]`, `question_id`, `memory_id` (the id of its document in the suite),
`kind` (see `pairs.Pair`), `rank` in retrieval from 0, `score`, `threshold`; and `names` `[features]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.evaluation.judging import NAMES
from core.evaluation.records import Judgement


def write_features(path: Path, judgements: Sequence[Judgement]) -> None:
    """Writes the file, whole or not at all; nothing in it is pickled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez_compressed(
        partial,
        names=np.array(NAMES, dtype=np.str_),
        features=np.array([j.features for j in judgements], dtype=np.float64).reshape(len(judgements), len(NAMES)),
        question_id=np.array([j.pair.question_id for j in judgements], dtype=np.str_),
        memory_id=np.array([j.pair.document_id for j in judgements], dtype=np.str_),
        kind=np.array([j.pair.kind for j in judgements], dtype=np.str_),
        rank=np.array([j.pair.rank for j in judgements], dtype=np.int64),
        score=np.array([j.score for j in judgements], dtype=np.float64),
        threshold=np.array([j.threshold for j in judgements], dtype=np.float64),
    )
    partial.replace(path)
