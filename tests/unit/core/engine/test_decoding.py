from __future__ import annotations

import torch

from core.base_model.loading import LoadedBase
from core.engine.decoding import Sampling, batches, common_length, prefill_shared, write
from core.engine.kv import PrefixKv

LIMIT = 6


def _prefixes(base: LoadedBase, questions: list[str]) -> tuple[list[PrefixKv], list[tuple[int, ...]]]:
    prompts = [base.chat.ask(question) for question in questions]
    return prefill_shared(base.model, [p.prefix for p in prompts]), [p.activation for p in prompts]


def test_what_is_written_is_what_the_model_would_generate(loaded_tiny: LoadedBase) -> None:
    questions = ["Who?", "Where is the old bridge?", "When?"]
    prefixes, feeds = _prefixes(loaded_tiny, questions)
    written = write(loaded_tiny.model, prefixes, feeds, limit=LIMIT, end_tokens=loaded_tiny.end_tokens)
    for question, row in zip(questions, written, strict=True):
        prompt = loaded_tiny.chat.ask(question)
        ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
        out = loaded_tiny.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT, do_sample=False, pad_token_id=0
        )
        expected = out[0, ids.shape[1] :].tolist()
        assert row.tokens == [token for token in expected if token not in loaded_tiny.end_tokens]


def test_targets_have_one_row_for_every_token_and_add_up_to_one(loaded_tiny: LoadedBase) -> None:
    prefixes, feeds = _prefixes(loaded_tiny, ["Who?", "Where is it?"])
    written = write(loaded_tiny.model, prefixes, feeds, limit=LIMIT, end_tokens=loaded_tiny.end_tokens, keep_top=5)
    for row in written:
        assert row.soft is not None
        assert len(row.soft) == len(row.tokens) + row.ended
        assert torch.allclose(row.soft.log_probabilities.exp().sum(-1), torch.ones(len(row.soft)), atol=1e-5)
        assert row.soft.tokens[: len(row.tokens), 0].tolist() == row.tokens


def test_sampling_repeats_itself_with_the_same_seed(loaded_tiny: LoadedBase) -> None:
    prefixes, feeds = _prefixes(loaded_tiny, ["Who?", "Where is it?", "What now?"])
    runs = [
        write(
            loaded_tiny.model,
            prefixes,
            feeds,
            limit=LIMIT,
            end_tokens=loaded_tiny.end_tokens,
            sampling=Sampling(seed, temperature=1.0),
        )
        for seed in (1, 1, 2)
    ]
    tokens = [[row.tokens for row in run] for run in runs]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]


def test_a_shared_start_changes_no_kv(loaded_tiny: LoadedBase) -> None:
    prompts = [loaded_tiny.chat.ask(q).prefix for q in ("What is the first?", "What is the second one?")]
    together = prefill_shared(loaded_tiny.model, prompts)
    for prompt, kv in zip(prompts, together, strict=True):
        alone = prefill_shared(loaded_tiny.model, [prompt])[0]
        assert len(kv) == len(prompt)
        assert torch.allclose(kv.keys, alone.keys, atol=1e-5)


def test_batches_hold_no_more_than_their_budget() -> None:
    assert batches([0, 1, 2, 3], [5, 5, 6, 50], budget=12) == [[0, 1], [2], [3]]


def test_common_length_counts_only_the_start() -> None:
    assert common_length([[1, 2, 3], [1, 2, 4, 3], [1, 2]]) == 2


def test_a_row_consists_of_the_tokens_that_it_is_allowed_alone(loaded_tiny: LoadedBase) -> None:
    prefixes, feeds = _prefixes(loaded_tiny, ["Who?", "Where is the old bridge?"])
    allowed = [torch.tensor([70, 71, 72]), torch.tensor([90])]
    for sampling in (None, Sampling(0)):
        written = write(
            loaded_tiny.model,
            prefixes,
            feeds,
            limit=LIMIT,
            end_tokens=loaded_tiny.end_tokens,
            sampling=sampling,
            allowed=allowed,
        )
        assert set(written[0].tokens) <= {70, 71, 72}
        assert written[1].tokens == [90] * LIMIT
