from __future__ import annotations

from typing import Any

import torch

from core.base_model.loading import LoadedBase
from core.engine.decoding import prefill_shared
from core.engine.partial import can_be_split, only_layers
from core.engine.rows import Rows


def test_a_plain_decoder_can_be_run_in_parts(loaded_tiny: LoadedBase) -> None:
    layers = loaded_tiny.model.get_decoder().layers
    assert can_be_split(loaded_tiny.model, 1)
    assert loaded_tiny.model.get_decoder().layers is layers


def test_a_model_whose_logits_are_scaled_can_not(loaded_tiny: LoadedBase) -> None:
    class Scaled:
        def __init__(self, model: Any) -> None:
            self.get_decoder, self.get_output_embeddings = model.get_decoder, model.get_output_embeddings
            self.device, self._model = model.device, model

        def __call__(self, **arguments: Any) -> Any:
            out = self._model(**arguments)
            out.logits = out.logits * 3.0
            return out

    assert not can_be_split(Scaled(loaded_tiny.model), 1)


@torch.no_grad()
def test_the_lower_layers_and_then_the_upper_ones_are_the_whole(loaded_tiny: LoadedBase) -> None:
    model = loaded_tiny.model
    prompts = [loaded_tiny.chat.ask(question) for question in ("Who?", "Where is the old bridge?")]
    prefixes = prefill_shared(model, [prompt.prefix for prompt in prompts])
    feeds = [[*prompts[0].activation, 70], [*prompts[1].activation, 71, 72]]
    width = max(map(len, feeds))
    whole = Rows(model, prefixes, room=width).feed(feeds, keep=3)
    with only_layers(model, 0, 1):
        below = Rows(model, prefixes, room=width).feed_decoder(feeds)
    hidden = [row[width - len(feed) :] for row, feed in zip(below, feeds, strict=True)]
    with only_layers(model, 1):
        above = Rows(model, [prefix.layers_from(1) for prefix in prefixes], room=width).feed_decoder(feeds, hidden)
    logits = model.get_output_embeddings()(above[:, -3:])
    assert torch.allclose(logits[0, -2:], whole[0, -2:], atol=1e-4)
    assert torch.allclose(logits[1], whole[1], atol=1e-4)
