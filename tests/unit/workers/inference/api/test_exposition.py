from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from core.metrics import InferenceMetrics
from workers.inference.api.exposition import exposition

Series = tuple[str, frozenset[tuple[str, str]]]


def filled() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = InferenceMetrics(registry)
    metrics.prompt_tokens.inc(7)
    metrics.requests_running.set(2)
    metrics.request_success.labels("stop").inc()
    metrics.time_to_first_token.observe(0.2)
    metrics.lora_requests_info.labels("3", "adapter-1", "").set(5)
    metrics.gate_decisions.labels("abstained").inc()
    return registry


def scraped(registry: CollectorRegistry, model: str | None) -> list[Metric]:
    return list(text_string_to_metric_families(exposition(registry, model).decode()))


def values(families: Iterable[Metric], **added: str) -> dict[Series, float]:
    """By name and labels; `added` are labels that vLLM's get, all but one."""

    def series(name: str, labels: dict[str, str]) -> Series:
        named = name.startswith("vllm:") and name != "vllm:lora_requests_info"
        return name, frozenset({**labels, **(added if named else {})}.items())

    return {series(one.name, one.labels): one.value for family in families for one in family.samples}


def test_vllms_metrics_carry_the_models_name_and_keep_their_values_and_labels() -> None:
    registry, name = filled(), 'SmolLM2 "135M"'
    found = scraped(registry, name)
    assert values(found) == values(registry.collect(), model_name=name)
    types = {family.name: family.type for family in found}
    assert types["vllm:time_to_first_token_seconds"] == "histogram"
    assert types["vllm:prompt_tokens"] == "counter"


def test_while_no_model_is_loaded_there_are_none_of_vllms() -> None:
    names = {family.name for family in scraped(filled(), None)}
    assert "latentbank_gate_decisions" in names
    assert not any(name.startswith("vllm:") for name in names)
