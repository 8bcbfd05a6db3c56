"""OpenAI's requests as this worker takes them, with the `memory` extension. Nothing is ignored silently."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from core.engine.sampling import Sampling
from core.truth.records import Fallback
from workers.inference.question import Mode, Question, Scope

# Accepted only with the value that asks for nothing: what OpenAI's and vLLM's clients know, and we don't do.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "store": (None, False),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
}
# Of no consequence for an answer, whatever they say.
_HINTS = frozenset(
    {
        "user",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "verbosity",
    }
)


class MemoryOptions(BaseModel):
    """The `memory` extension: which memories may answer, and how it is decided whether one does."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] | None = Field(None, min_length=1, max_length=64)
    collection: str | None = None
    top_k: int | None = Field(None, ge=1, le=16)
    mode: Mode = "auto"
    threshold: float | None = Field(None, ge=0, le=1)
    max_active: int | None = Field(None, ge=1, le=3)
    explain: bool = False
    fallback: Fallback | None = None

    def scope(self) -> Scope:
        ids = None if self.ids is None else tuple(dict.fromkeys(self.ids))
        return Scope(
            ids,
            self.collection,
            self.top_k,
            self.mode,
            self.threshold,
            self.max_active,
            self.explain,
            self.fallback,
        )


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": text}


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    model: str
    max_tokens: int | None = Field(None, ge=1)
    # Greedy unless asked otherwise: an answer from memory is a fact, and drafted tokens are then kept.
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    memory: MemoryOptions = MemoryOptions()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            for name, value in fields.items():
                if name in _UNSUPPORTED and not any(_same(value, neutral) for neutral in _UNSUPPORTED[name]):
                    raise PydanticCustomError("unsupported", "{param} is not supported here.", {"param": name})
                if name not in cls.model_fields and name not in _UNSUPPORTED and name not in _HINTS:
                    what = "{param} is no field of this request; leave it out."
                    raise PydanticCustomError("unknown", what, {"param": str(name)[:64]})
            fields = {name: value for name, value in fields.items() if not (name == "memory" and value is None)}
        return fields

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _question(self, tenant_id: str, asked: str | tuple[dict[str, str], ...]) -> Question:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Question(
            tenant_id=tenant_id,
            model=self.model,
            asked=asked,
            scope=self.memory.scope(),
            sampling=Sampling(self.temperature or 0.0, 1.0 if self.top_p is None else self.top_p, self.seed),
            max_tokens=self.max_tokens,
            stops=tuple(stop for stop in stops if stop),
        )


class ChatRequest(_Request):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    def question(self, tenant_id: str) -> Question:
        return self._question(tenant_id, tuple(message.plain() for message in self.messages))


class CompletionRequest(_Request):
    """The body of `POST /v1/completions`; one prompt."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]

    def question(self, tenant_id: str) -> Question:
        return self._question(tenant_id, self.prompt if isinstance(self.prompt, str) else self.prompt[0])


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not just because Python takes `False` for 0: `logprobs=0` asks for something, `False` does not."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
