"""The sentence encoder: a real packaged model, mean pooled and normalised as its authors do."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from core.base_model.reference import locate

MAX_TOKENS = 256
BATCH = 32


class Encoder:
    """Texts to unit vectors. Thread-safe; fp32 on the CPU, where one question takes about 10 ms."""

    def __init__(self, reference: str) -> None:
        """Loads the encoder that `reference` names. Raises `SetupError` where it is not there."""
        files = locate(reference)
        self.reference = reference
        self._tokenizer = AutoTokenizer.from_pretrained(files.directory)  # nosec B615
        model = AutoModel.from_pretrained(files.directory, dtype=torch.float32, use_safetensors=True)  # nosec B615
        self._model = model.eval()
        self._model.requires_grad_(False)
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        return int(self._model.config.hidden_size)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """`[n, dimension]` fp32 vectors of length 1 on the CPU; what exceeds 256 tokens is not read."""
        vectors = torch.zeros(len(texts), self.dimension)
        # Texts of like length share a batch, so that little is spent on padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            vectors[chosen] = self._encode_batch([texts[i] for i in chosen])
        return vectors

    def _encode_batch(self, texts: list[str]) -> Tensor:
        with self._lock:
            inputs = self._tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            hidden: Tensor = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)
