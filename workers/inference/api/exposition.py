"""A scrape of the worker: vLLM's metrics carry the base model's name, by which dashboards made for vLLM choose."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

_VLLMS = "vllm:"
_UNNAMED = "vllm:lora_requests_info"
"""vLLM gives it no model either; its readers expect three labels."""


def exposition(registry: CollectorRegistry, model: str | None) -> bytes:
    """All metrics as Prometheus' text; without a `model` (it is being loaded) all but vLLM's."""
    shown = CollectorRegistry(auto_describe=False)
    shown.register(_Named(registry, model))
    return generate_latest(shown)


class _Named(Collector):
    def __init__(self, registry: CollectorRegistry, model: str | None) -> None:
        self._registry = registry
        self._model = model

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if not family.name.startswith(_VLLMS):
                yield family
            elif self._model is not None:
                yield family if family.name == _UNNAMED else _named(family, self._model)


def _named(family: Metric, model: str) -> Metric:
    named = Metric(family.name, family.documentation, family.type, family.unit)
    named.samples = [sample._replace(labels={"model_name": model, **sample.labels}) for sample in family.samples]
    return named
