from __future__ import annotations

from itertools import pairwise

import pytest

from core.gate.features import RetrievalSignals
from core.gate.prior import PRIOR
from core.gate.relevance import RELEVANT, relevance


@pytest.mark.parametrize(("dense", "lexical"), [(0.75, 1.0), (0.6, 0.7), (0.5, 0.9)])
def test_a_text_that_says_what_is_asked_is_relevant(dense: float, lexical: float) -> None:
    assert relevance(RetrievalSignals(dense, lexical, dense)) >= RELEVANT


@pytest.mark.parametrize(("dense", "lexical"), [(0.1, 0.0), (0.3, 0.3), (0.2, 1.0), (0.45, 0.0)])
def test_a_text_that_is_near_in_words_or_in_sense_alone_is_not(dense: float, lexical: float) -> None:
    assert relevance(RetrievalSignals(dense, lexical, dense)) < RELEVANT


def test_it_grows_with_each_signal_and_is_a_score_of_the_prior() -> None:
    for name in ("dense", "lexical", "matched"):
        at = {"dense": 0.5, "lexical": 0.5, "matched": 0.5}
        scores = [relevance(RetrievalSignals(**at | {name: i / 10})) for i in range(11)]
        assert all(low < high for low, high in pairwise(scores))
    means = RetrievalSignals(*PRIOR.mean[:3])
    assert relevance(means) == PRIOR.score(PRIOR.mean)
