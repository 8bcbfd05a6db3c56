"""What our engine is compared with: `generate` of `transformers`, alone and with PEFT's mixed batch of adapters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from core.base_model.chat import Prompt
from core.base_model.description import BaseDescription
from core.settings import RecipeSettings


class Plain:
    """A static batch of `transformers`, the prompts padded on the left; each row writes exactly `tokens`."""

    def __init__(self, base: BaseDescription, prompts: Sequence[Prompt], tokens: int) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
        self._tokens = tokens
        longest = max(len(prompt) for prompt in prompts)
        rows = [[*prompt.prefix, *prompt.activation] for prompt in prompts]
        self._ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        self._mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])

    def tokens_per_second(self) -> float:
        """Of decoding alone: from the first token, which ends the prefill, to the last."""
        written = _Written()
        with torch.no_grad():
            self._model.generate(
                input_ids=self._ids,
                attention_mask=self._mask,
                min_new_tokens=self._tokens + 1,
                max_new_tokens=self._tokens + 1,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([written]),
                **self._more(),
            )
        return self._ids.shape[0] * self._tokens / (written.at[-1] - written.at[0])

    def _more(self) -> dict[str, Any]:
        return {}


class _Written(StoppingCriteria):  # type: ignore[misc]
    """Notes when each token is written, and stops nothing."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.at.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class PeftMix(Plain):
    """The same with another adapter for every row, by PEFT's `adapter_names`."""

    def __init__(self, base: BaseDescription, prompts: Sequence[Prompt], tokens: int) -> None:
        super().__init__(base, prompts, tokens)
        recipe = RecipeSettings()
        layers = self._model.config.num_hidden_layers
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            target_modules=list(recipe.targets),
            layers_to_transform=list(range(int(layers * recipe.untouched_layers), layers)),
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        self._names = [f"adapter-{i}" for i in range(len(prompts))]
        self._model = get_peft_model(self._model, config, adapter_name=self._names[0])
        for name in self._names[1:]:
            self._model.add_adapter(name, config)
        self._model.eval()

    def _more(self) -> dict[str, Any]:
        return {"adapter_names": self._names}
