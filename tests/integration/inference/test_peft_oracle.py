"""PEFT as the oracle: it loads a published adapter unmodified and gives the worker's greedy answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.base_model.chat import Chat
from core.base_model.description import BaseDescription
from core.storage.publication import read_manifest
from tests.fixtures.published import OPEN
from tests.integration.inference.conftest import RunningWorker

Messages = list[dict[str, str]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


CHATS: tuple[Messages, ...] = (
    [user("Who is the mayor of Velmora?")],
    [user("Ünïcode, 7 × 6?")],
    # The adapter acts from the last assistant header on, not from the first.
    [user("Hi"), {"role": "assistant", "content": "Hello."}, user("And who is the mayor?")],
)


@pytest.mark.parametrize("seed", [21, 22])
def test_peft_gives_the_same_greedy_answers(
    worker: RunningWorker, tiny_base: BaseDescription, tmp_path: Path, seed: int
) -> None:
    tenant = worker.publisher.tenant()
    entry = worker.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=seed, samples=OPEN)
    manifest = read_manifest(worker.store, entry.manifest_key)
    for file in manifest.files:
        worker.store.download(manifest.key_of(file), tmp_path / file.name)
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path)
    chat = Chat(tokenizer)
    base_answers = [_greedy(model, chat, messages) for messages in CHATS]
    peft = PeftModel.from_pretrained(model, str(tmp_path)).eval()
    client = worker.openai(tenant)
    for messages, base_answer in zip(CHATS, base_answers, strict=True):
        expected = _greedy(peft, chat, messages)
        assert expected != base_answer
        for name, mode in ((entry.memory_id, "auto"), (tiny_base.name, "auto"), (tiny_base.name, "force")):
            answer = client.chat.completions.create(
                model=name,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=24,
                extra_body={"memory": {"mode": mode}},
            )
            assert answer.memory["digest"] == manifest.adapter_digest  # type: ignore[attr-defined]
            assert answer.choices[0].message.content == expected
        off = client.chat.completions.create(
            model=tiny_base.name,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=24,
            extra_body={"memory": {"mode": "off"}},
        )
        assert off.choices[0].message.content == base_answer


def _greedy(model: torch.nn.Module, chat: Chat, messages: Messages) -> str:
    prompt = chat.prompt(messages)
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    with torch.no_grad():
        out = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
    return chat.decode(out[0, ids.shape[1] :].tolist())
