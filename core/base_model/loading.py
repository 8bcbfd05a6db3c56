"""Loads a prepared base model with torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.base_model.allocator import keep_freed_memory
from core.base_model.chat import Chat
from core.base_model.description import BaseDescription
from core.base_model.frozen import freeze
from core.engine.install import install


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A frozen base model in memory: `model` is a `transformers` causal LM in eval mode without gradients."""

    description: BaseDescription
    model: Any
    chat: Chat
    end_tokens: frozenset[int]

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(
    description: BaseDescription, device: torch.device | None = None, *, partitioned: bool = False
) -> LoadedBase:
    """Loads the copy: fp32 on CPU, bf16 on CUDA. `partitioned` where its weights will be spread over ranks (ZeRO-3)."""
    device = device or best_device()
    if device.type == "cpu":
        keep_freed_memory()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(description.path)  # nosec B615
    model = AutoModelForCausalLM.from_pretrained(description.path, dtype=dtype, use_safetensors=True)  # nosec B615
    model = model.to(device).eval()
    model.requires_grad_(False)
    if not partitioned:
        freeze(model)
    install(model, frozen=not partitioned)
    return LoadedBase(description, model, Chat(tokenizer), _end_tokens(model, tokenizer))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return frozenset(token for token in [*ends, tokenizer.eos_token_id] if token is not None)
