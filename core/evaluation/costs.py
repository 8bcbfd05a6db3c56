"""What memories cost to make and to keep, and how fast they answer; pure.

- `seconds_per_memory`: wall seconds from the first submission to the last memory ready, everything included, divided by
  the number of memories. Spells in which no job was open are left out, so that reused memories keep their cost.
- `seconds_by_phase`: means over the memories of what their manifests say.
- `bytes_per_memory`: mean of all published files; `adapter_bytes_per_memory` of the weights alone;
  `kv_bytes_of_text`: mean size of the text's KV cache in the base's type; `text_bytes`: of the text in UTF-8.
- `peak_rss_bytes`: the most that the distillation worker's processes held at once while distilling, pages that they
  share counted by each; `None` where nothing was distilled.
- `latency.*`: medians of milliseconds to the first word over HTTP, questions alternating. `routed_ttft_ms`: with the
  bank. `rag_ttft_ms`: retrieval, then the text in the prompt and no memory; `rag_cached_ttft_ms` the same again, the
  text's KV now in the worker's prefix cache. `served_agreement`: how often the served answer is the batched one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

from core.evaluation.intervals import Figure, bootstrap
from core.evaluation.records import Made, Record, Served


def cost_of(made: Sequence[Made], peak_rss_bytes: int | None) -> dict[str, Any]:
    """The section `cost`."""
    spells = [(one.submitted, one.finished) for one in made if one.submitted is not None and one.finished is not None]
    ready = [one for one in made if one.ready]
    timed = sum(one.submitted is not None and one.finished is not None for one in ready)
    return {
        "seconds_per_memory": covered([(a, b) for a, b in spells]) / timed if timed else None,
        "seconds_by_phase": _by_phase(ready),
        "bytes_per_memory": _mean(one.bytes for one in ready),
        "adapter_bytes_per_memory": _mean(one.adapter_bytes for one in ready),
        "kv_bytes_of_text": _mean(one.kv_bytes for one in ready),
        "text_bytes": _mean(len(one.document.text.encode()) for one in made),
        "peak_rss_bytes": peak_rss_bytes,
        "memories": len(made),
        "failed": len(made) - len(ready),
        "reused": sum(one.reused for one in made),
    }


def covered(spells: Iterable[tuple[float, float]]) -> float:
    """How much time lies within at least one of `spells`, each from start to end."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spells):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def latency_of(served: Sequence[Served], records: Sequence[Record], seed: int) -> dict[str, Figure]:
    """The section `latency`, by dotted name."""
    batched = {record.question.id: record.answers.get("routed") for record in records}
    same = [float(one.answer.strip() == (batched.get(one.question_id) or "").strip()) for one in served]
    times = {
        "latency.routed_ttft_ms": [one.routed_ttft_ms for one in served],
        "latency.rag_ttft_ms": [one.rag_ttft_ms for one in served],
        "latency.rag_cached_ttft_ms": [one.rag_cached_ttft_ms for one in served],
    }
    figures = {name: _median(listed, seed) for name, listed in times.items()}
    agreement = bootstrap(len(same), lambda sample: mean(same[i] for i in sample), seed)
    return figures | {"latency.served_agreement": agreement}


def _median(values: Sequence[float], seed: int) -> Figure:
    return bootstrap(len(values), lambda sample: float(median(values[i] for i in sample)), seed)


def _by_phase(ready: Sequence[Made]) -> dict[str, float]:
    spent: dict[str, list[float]] = {}
    for one in ready:
        for phase, seconds in (one.seconds_by_phase or {}).items():
            spent.setdefault(phase, []).append(seconds)
    return {phase: mean(seconds) for phase, seconds in sorted(spent.items())}


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
