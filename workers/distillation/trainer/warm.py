"""What the trainer keeps loaded between runs: a base, an encoder, the engine, and the base's own answers."""

from __future__ import annotations

from typing import Any

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.loading import LoadedBase, best_device
from core.engine.decoding import prefill_shared
from core.engine.kv import PrefixKv
from core.engine.partial import can_be_split
from core.retrieval.encoder import Encoder
from core.settings import RecipeSettings
from workers.distillation.trainer.engine import AdapterEngine, zero_stage
from workers.distillation.trainer.off_topic import JUDGE, LEARN
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.rewording import Rewording
from workers.distillation.trainer.student import student_loss
from workers.distillation.trainer.targets import Lesson, base_lessons

LEAST_ROOM = 8
"""Adapters that an engine has room for at least, so that runs of different sizes share one."""


class Warm:
    """Made once for a base and an encoder; the engine is for adapters of the last recipe's shape."""

    def __init__(self, key: tuple[str, str, str], base: LoadedBase, encoder: Encoder) -> None:
        self.key = key
        self.base = base
        self.encoder = encoder
        self.rewording = Rewording(base.model, base.chat.tokenizer)
        self._engine: AdapterEngine | None = None
        self._shape: Any = None
        self._kept: dict[tuple[int, int, int], list[Lesson]] = {}
        self._everyday: dict[str, PrefixKv] = {}
        self._splits: dict[int, bool] = {}

    def first_layer(self, recipe: RecipeSettings) -> int:
        """The number of the first layer that carries an adapter."""
        return int(self.base.model.config.num_hidden_layers * recipe.untouched_layers)

    def lessons_from(self, recipe: RecipeSettings, config: dict[str, Any]) -> int:
        """The layer that lessons start before: the first adapted one where the base can be run in parts, else 0."""
        first = self.first_layer(recipe)
        if not first or zero_stage(config) == 3:
            return 0
        if first not in self._splits:
            self._splits[first] = can_be_split(self.base.model, first)
        return first if self._splits[first] else 0

    def engine(self, recipe: RecipeSettings, config: dict[str, Any], ranks: Ranks, count: int = 1) -> AdapterEngine:
        """An engine with room for `count` adapters of the recipe's shape; another shape needs another engine."""
        shape = (recipe.rank, recipe.alpha, recipe.targets, recipe.untouched_layers)
        if self._engine is None or self._shape != shape or self._engine.count < count:
            self.close()
            room = max(count, LEAST_ROOM)
            # Slot 0 is the base's; finished adapters are judged in the others.
            adapters = PackedAdapters(self.base.model, recipe.targets, room + 1, recipe.rank)
            scale, starts = recipe.alpha / recipe.rank, self.lessons_from(recipe, config)
            loss = student_loss(self.base.model, adapters, ranks.size, scale, starts)
            first = self.first_layer(recipe)
            self._engine = AdapterEngine(self.base.model, adapters, config, loss, count=room, first_layer=first)
            self._shape = shape
        return self._engine

    def kept(self, recipe: RecipeSettings, ranks: Ranks, first_layer: int) -> list[Lesson]:
        """The base's answers to everyday questions: the same for every memory, so made once."""
        key = (recipe.off_topic_tokens, recipe.teacher_top_k, first_layer)
        if key not in self._kept:
            self._kept[key] = base_lessons(self.base, LEARN, recipe, ranks, first_layer)
        return self._kept[key]

    def prefixes(self, questions: list[str]) -> list[PrefixKv]:
        """The KV of each question before the activation tokens; that of everyday ones is kept."""
        new = [question for question in dict.fromkeys(questions) if question not in self._everyday]
        made = prefill_shared(self.base.model, [self.base.chat.ask(question).prefix for question in new])
        found = {**self._everyday, **dict(zip(new, made, strict=True))}
        self._everyday = {question: found[question] for question in JUDGE if question in found}
        return [found[question] for question in questions]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine.adapters.remove()
            self._engine = None


def own_device() -> torch.device:
    device = best_device()
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
