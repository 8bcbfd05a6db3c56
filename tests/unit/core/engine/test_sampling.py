from __future__ import annotations

import pytest
import torch

from core.engine.sampling import Sampler, Sampling, nucleus

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


def test_temperature_zero_takes_the_likeliest() -> None:
    assert Sampler(Sampling()).next_token(LOGITS) == 1


def test_a_seed_repeats_and_without_one_chance_decides() -> None:
    flat = torch.zeros(1000)
    draws = [[Sampler(Sampling(1.0, seed=seed)).next_token(flat) for _ in range(3)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len({Sampler(Sampling(1.0)).next_token(flat) for _ in range(20)}) > 1


def test_a_neighbours_draws_do_not_move_anothers() -> None:
    flat = torch.zeros(1000)
    alone, beside, neighbour = (Sampler(Sampling(1.0, seed=seed)) for seed in (1, 1, 2))
    expected = [alone.next_token(flat) for _ in range(5)]
    got = []
    for _ in range(5):
        torch.rand(3)
        neighbour.next_token(flat)
        got.append(beside.next_token(flat))
    assert got == expected


@pytest.mark.parametrize(("top_p", "kept"), [(1.0, {0, 1, 2, 3}), (0.6, {1}), (0.7, {1, 2}), (1e-9, {1})])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: set[int]) -> None:
    probabilities = LOGITS.softmax(-1)  # 0.09, 0.64, 0.24, 0.03
    left = nucleus(probabilities, top_p)
    assert set(left.nonzero()[:, 0].tolist()) == kept
    assert torch.equal(left[list(kept)], probabilities[list(kept)])


def test_sampling_follows_the_distribution() -> None:
    sampler = Sampler(Sampling(1.0, seed=0))
    counts = torch.bincount(torch.tensor([sampler.next_token(LOGITS) for _ in range(2000)]), minlength=4) / 2000
    assert torch.allclose(counts, LOGITS.softmax(-1), atol=0.04)
