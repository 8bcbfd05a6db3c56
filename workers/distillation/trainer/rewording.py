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
        if word not in self._known:
            self._known[word] = self._find(word)
        return self._known[word]

    def reworded(self, question: str, keep: Collection[str], chance: random.Random) -> str | None:
        """The question with one or two words exchanged, none of `keep` (in lower case); `None` where none can be."""
        parts = question.split(" ")
        can = [at for at, part in enumerate(parts) if self._may_go(part, keep)]
        if not can:
            return None
        for at in chance.sample(can, min(len(can), chance.randint(1, EXCHANGED))):
            word = parts[at].rstrip("?,.:;")
            parts[at] = chance.choice(self.alike(word)) + parts[at][len(word) :]
        return " ".join(parts)

    def _may_go(self, part: str, keep: Collection[str]) -> bool:
        word = part.rstrip("?,.:;")
        return word.isalpha() and word.islower() and word not in _FIXED and word not in keep and bool(self.alike(word))

    def _find(self, word: str) -> list[str]:
        at = self._at.get(word)
        if at is None:
            return []
        cosines = self._vectors @ self._vectors[at]
        best = cosines.topk(min(2 * MOST_ALIKE + 1, len(self._words)))
        near = [
            self._words[other]
            for cosine, other in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if cosine >= LEAST_ALIKE and _is_another(self._words[other], word)
        ]
        return near[:MOST_ALIKE]


def _is_another(candidate: str, word: str) -> bool:
    """Whether it is a word of its own: no form or fragment of `word`, no function word, no half of "isn't"."""
    if candidate in _FIXED or _HALF.search(candidate) or len(candidate) < 4:
        return False
    return stem(candidate) != stem(word) and not word.startswith(candidate)


def topic_words(topic: str) -> frozenset[str]:
    """The words of a topic, which no rewording may touch."""
    return frozenset(words_of(topic))
