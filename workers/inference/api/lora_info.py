"""The labels of `vllm:lora_requests_info`, in the form that vLLM's readers take apart. Pure.

vLLM joins adapter names with commas and sets the series to the time; llm-d and the Gateway API inference extension
take the series with the greatest value, split it at the commas and count (`pkg/epp/backend/metrics` there). Names of
ours would be memory ids, which belong in no label, and every set of them a series of its own. So adapters are numbered
anew for each scrape: the counts are right, and with n slots there are at most (n + 1)² series, whoever asks for what.
"""

from __future__ import annotations

from collections.abc import Collection


def lora_labels(capacity: int, running: Collection[str], waiting: Collection[str]) -> dict[str, str]:
    """`running` adapters are held by requests in slots, `waiting` ones are needed by requests that wait.

    An adapter that is both counts as running. Of those that wait at most `capacity` are told: no reader makes more of
    more than a full set.
    """
    in_slots = min(capacity, len(running))
    waits = min(capacity, len(set(waiting).difference(running)))
    names = [f"adapter-{number}" for number in range(1, in_slots + waits + 1)]
    return {
        "max_lora": str(capacity),
        "running_lora_adapters": ",".join(names[:in_slots]),
        "waiting_lora_adapters": ",".join(names[in_slots:]),
    }
