"""The same question in other words: words exchanged for ones that the base's own embeddings hold for alike.

Users do not ask in a text's words. What comes out is not always English, but it points at the same fact by another word
("Which rock is the house constructed of?"), and no dictionary of any language is needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from core.retrieval.lexical import stem
from workers.distillation.trainer.contrasts import contrast
from workers.distillation.trainer.questions import FUNCTION_WORDS, QUESTION_WORDS, words_of

LEAST_ALIKE = 0.42
"""Cosine of two words' centred embeddings; below it they have little in common."""
MOST_ALIKE = 5
EXCHANGED = 2
"""Words of one question, at the most."""
_HALF = re.compile(r"^(?:is|was|were|did|does|would|could|should|has|have|had|are|might|must|need)n$")
_STARTS = ("Ġ", "▁")
_FIXED = FUNCTION_WORDS | frozenset(QUESTION_WORDS.split())


class Rewording:
    """The base's vocabulary of whole words with their embeddings, `[words, hidden]`, centred and of length 1."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        found = {
            token[1:]: i
            for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
            if token is not None and token.startswith(_STARTS) and token[1:].isalpha() and token[1:].islower()
        }
        self._words = [word for word in found if len(word) > 2]
        self._at = {word: at for at, word in enumerate(self._words)}
        rows = [found[word] for word in self._words]
        vectors = model.get_input_embeddings().weight[rows].detach().float()
        self._vectors: Tensor = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
        self._known: dict[str, list[str]] = {}

    def alike(self, word: str) -> list[str]:
        """Up to `MOST_ALIKE` other words that are used alike, the most alike first; none for a rare word."""
        if word not in self._at:
            return []
        if word not in self._known:
            self._known[word] = self._find(word)
        return self._known[word]

    def reworded(
        self, question: str, keep: Collection[str], told: Collection[str], chance: random.Random
    ) -> str | None:
        """The question with one or two words exchanged; `None` where none can be.

        None of the words `keep` goes, and none of `told`, the stems of the context's words, comes in: what the text
        calls otherwise is something else.
        """
        parts = question.split(" ")
        choices = {at: self._others(part, keep, told) for at, part in enumerate(parts)}
        can = [at for at, others in choices.items() if others]
        if not can:
            return None
        for at in chance.sample(can, min(len(can), chance.randint(1, EXCHANGED))):
            word = parts[at].rstrip("?,.:;")
            parts[at] = chance.choice(choices[at]) + parts[at][len(word) :]
        return " ".join(parts)

    def _others(self, part: str, keep: Collection[str], told: Collection[str]) -> list[str]:
        word = part.rstrip("?,.:;")
        if not (word.isalpha() and word.islower()) or word in _FIXED or word in keep:
            return []
        return [other for other in self.alike(word) if stem(other) not in told]

    def _find(self, word: str) -> list[str]:
        cosines = self._vectors @ self._vectors[self._at[word]]
        best = cosines.topk(min(2 * MOST_ALIKE + 1, len(self._words)))
        near = [
            self._words[other]
            for cosine, other in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if cosine >= LEAST_ALIKE and _is_another(self._words[other], word)
        ]
        return near[:MOST_ALIKE]


def _is_another(candidate: str, word: str) -> bool:
    """Whether it may mean the same: no form or fragment of `word`, no function word, no opposite or sibling."""
    if candidate in _FIXED or _HALF.search(candidate) or len(candidate) < 4:
        return False
    return stem(candidate) != stem(word) and not word.startswith(candidate) and not contrast(candidate, word)


def topic_words(topic: str) -> frozenset[str]:
    """The words of a topic, which no rewording may touch."""
    return frozenset(words_of(topic))
