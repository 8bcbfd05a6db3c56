"""Every metric of every process, one family per process; docs/metrics.md lists them, and a test holds the two equal.

Label sets are bounded: no id, no name that a tenant chose, no text. The `vllm:` names are vLLM's own, so that
dashboards and routers made for it work unchanged.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_LOAD_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_JOB_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 1200, 3600)
_WAIT_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_CLAIM_SECONDS = (0.002, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.25, 1, 5)
_PACK_JOBS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_SCORES = tuple(step / 20 for step in range(1, 21))


class GatewayMetrics:
    """What the gateway counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "latentbank_gateway_requests_total",
            "HTTP requests answered, by route template.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "latentbank_gateway_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "latentbank_gateway_refused_total",
            "Connections turned away before a route, by the limit: connections, head, slow, stalled, malformed; or "
            "requests beyond those that may be under way (requests).",
            ["reason"],
            registry=registry,
        )
        self.admitted = Counter(
            "latentbank_memories_admitted_total",
            "Contexts offered as memories, by what became of the offer.",
            ["outcome"],
            registry=registry,
        )
        self.attempts = Counter(
            "latentbank_gateway_attempts_total",
            "Requests sent to an inference worker: answered, or tried elsewhere because it was busy or unreachable.",
            ["outcome"],
            registry=registry,
        )
        self.routed = Counter(
            "latentbank_gateway_routed_total",
            "Requests answered, by whether the worker held the bank, others did (spilled), or nobody (hashed).",
            ["outcome"],
            registry=registry,
        )
        self.unrouted = Counter(
            "latentbank_gateway_unrouted_total",
            "Requests that no worker answered: none was there (no_worker), reachable (no_answer), or free (all_busy).",
            ["reason"],
            registry=registry,
        )
        self.residency_polls = Counter(
            "latentbank_gateway_residency_polls_total",
            "Questions to workers about what they hold: reported, not_ready, refused, malformed, or unreachable.",
            ["outcome"],
            registry=registry,
        )
        self.rated = Counter(
            "latentbank_gateway_rated_total",
            "Requests of tenants that have a limit of requests per minute: allowed, or refused.",
            ["outcome"],
            registry=registry,
        )
        self.rates_alone = Counter(
            "latentbank_gateway_rates_alone_total",
            "Times that Redis did not answer and requests were counted by this gateway alone for a while.",
            registry=registry,
        )


class OrchestratorMetrics:
    """What the orchestrator counts; gauges are read from the truth, so every orchestrator shows the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge("latentbank_jobs", "Jobs in the truth, by state.", ["state"], registry=registry)
        self.queue_wait_seconds = Histogram(
            "latentbank_job_queue_wait_seconds",
            "Time from a job's admission to its dispatch; not of jobs that a worker took along into its pack.",
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self.doorbells = Counter("latentbank_doorbells_total", "Doorbells rung at the broker.", registry=registry)
        self.reaped = Counter(
            "latentbank_jobs_reaped_total",
            "Jobs whose lease ran out, by what was done with them.",
            ["outcome"],
            registry=registry,
        )
        self.poisoned = Gauge(
            "latentbank_jobs_poisoned",
            "Jobs of the last day that failed because every attempt at them was lost.",
            registry=registry,
        )
        self.store_up = Gauge(
            "latentbank_object_store_up",
            "1 where the object store answered when last asked, else 0.",
            registry=registry,
        )
        self.pending_device_seconds = Gauge(
            "latentbank_pending_device_seconds",
            "Estimated device-seconds of all unfinished jobs; the signal that KEDA scales by.",
            registry=registry,
        )
        self.workers_alive = Gauge(
            "latentbank_workers", "Workers whose announcement has not expired, by kind.", ["kind"], registry=registry
        )
        self.deletion_oldest_seconds = Gauge(
            "latentbank_deletion_oldest_seconds",
            "Age of the oldest deletion that is not attested yet; 0 where all are.",
            registry=registry,
        )
        self.garbage_removed = Counter(
            "latentbank_garbage_removed_total", "Objects removed that no row of the truth names.", registry=registry
        )


class DistillationMetrics:
    """What the distillation worker counts; in multi-process mode, because Celery forks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.job_seconds = Histogram(
            "latentbank_job_seconds",
            "Time that a job spent in a phase.",
            ["phase"],
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self.attempts = Counter(
            "latentbank_job_attempts_total", "Attempts at a job, by how they ended.", ["outcome"], registry=registry
        )
        self.pack_jobs = Histogram(
            "latentbank_pack_jobs",
            "Jobs that went into one run of the trainer together.",
            buckets=_PACK_JOBS,
            registry=registry,
        )
        self.claim_seconds = Histogram(
            "latentbank_job_claim_seconds",
            "Time of a transaction that claims jobs, whether it found any or not.",
            buckets=_CLAIM_SECONDS,
            registry=registry,
        )
        self.claim_wait_seconds = Histogram(
            "latentbank_job_claim_wait_seconds",
            "Time from a job's admission to its first claim by a worker.",
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self.tasks = Counter(
            "celery_tasks_total", "Celery deliveries, by the state they ended in.", ["state"], registry=registry
        )
        self.group_up = Gauge(
            "latentbank_trainer_group_up",
            "1 while the DeepSpeed process group is up and warm, else 0.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )


class InferenceMetrics:
    """What the inference worker counts: vLLM's names where vLLM has them, then ours."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "latentbank_inference_refused_total",
            "Connections turned away before a route, by the limit: connections, head, slow, stalled, malformed.",
            ["reason"],
            registry=registry,
        )
        self.requests_running = Gauge(
            "vllm:num_requests_running", "Requests whose rows are being generated.", registry=registry
        )
        self.requests_waiting = Gauge(
            "vllm:num_requests_waiting", "Requests waiting for admission or for an adapter.", registry=registry
        )
        self.kv_cache_usage = Gauge(
            "vllm:kv_cache_usage_perc", "Share of the prefix cache's bytes in use, 0 to 1.", registry=registry
        )
        self.prefix_cache_queries = Counter(
            "vllm:prefix_cache_queries_total", "Prefix tokens looked up in the prefix cache.", registry=registry
        )
        self.prefix_cache_hits = Counter(
            "vllm:prefix_cache_hits_total", "Prefix tokens found in the prefix cache.", registry=registry
        )
        self.prompt_tokens = Counter("vllm:prompt_tokens_total", "Prompt tokens taken in.", registry=registry)
        self.generation_tokens = Counter("vllm:generation_tokens_total", "Answer tokens generated.", registry=registry)
        self.request_success = Counter(
            "vllm:request_success_total",
            "Requests answered, by why generation ended.",
            ["finished_reason"],
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "Time from a request's arrival to its first answer token, gate included.",
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.lora_requests_info = Gauge(
            "vllm:lora_requests_info",
            "Unix time of the scrape; slots, and adapters running and waiting under passing names, as labels.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            registry=registry,
        )
        self.adapter_load_seconds = Histogram(
            "latentbank_adapter_load_seconds",
            "Time of one stage of bringing an adapter to its slot, by the tier it came from.",
            ["source", "stage"],
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self.adapter_load_failures = Counter(
            "latentbank_adapter_load_failures_total",
            "Adapters that could not be loaded, by error code.",
            ["reason"],
            registry=registry,
        )
        self.adapter_evictions = Counter(
            "latentbank_adapter_evictions_total",
            "Adapters put out of a tier, by why.",
            ["tier", "reason"],
            registry=registry,
        )
        self.adapter_resident = Gauge(
            "latentbank_adapter_resident", "Adapters held in a tier.", ["tier"], registry=registry
        )
        self.adapter_bytes = Gauge(
            "latentbank_adapter_resident_bytes", "Bytes of the adapters held in a tier.", ["tier"], registry=registry
        )
        self.adapter_budget = Gauge(
            "latentbank_adapter_budget_bytes",
            "Bytes that the adapters of a tier may take; those of slots are taken from the start.",
            ["tier"],
            registry=registry,
        )
        self.candidates_unavailable = Counter(
            "latentbank_candidates_unavailable_total",
            "Memories that a question was answered without because they can't be read now, by error code.",
            ["reason"],
            registry=registry,
        )
        self.gate_decisions = Counter(
            "latentbank_gate_decisions_total",
            "Questions by what was decided: a memory was activated, forced, served from its text, or left off, or the "
            "gate abstained.",
            ["outcome"],
            registry=registry,
        )
        self.gate_seconds = Histogram(
            "latentbank_gate_seconds",
            "Time to draft and judge the candidates of a question.",
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self.gate_score = Histogram(
            "latentbank_gate_score",
            "The gate's score of each candidate judged, 0 to 1.",
            buckets=_SCORES,
            registry=registry,
        )
        self.gate_calibrations = Counter(
            "latentbank_gate_calibrations_total",
            "Gates fitted to a bank, by how the threshold was found (conformal, above_all, prior), or failed.",
            ["outcome"],
            registry=registry,
        )
        self.gate_calibration_seconds = Histogram(
            "latentbank_gate_calibration_seconds",
            "Time to fit the gate of a bank.",
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self.prefix_tokens_reused = Counter(
            "latentbank_prefix_tokens_reused_total",
            "Prefix tokens that a row took from shared KV instead of computing them.",
            registry=registry,
        )


def enable_multiprocess(directory: Path) -> None:
    """Makes metrics created from now on, here and in children, share values through files in `directory`.

    Call it first thing in the process, before any family is created; what an earlier process left there is removed.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    # prometheus-client chooses its value class when it is imported, which this module has already done.
    prometheus_client.values.ValueClass = prometheus_client.values.get_value_class()


def multiprocess_registry(directory: Path) -> CollectorRegistry:
    """A registry that adds up what all processes wrote to `directory`; serve this one, create families on another."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    return registry
