"""PEFT as the oracle under the whole engine: it loads what a worker downloads, unmodified, as an activated LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from core.base_model.loading import LoadedBase
from core.storage.publication import read_manifest
from tests.unit.workers.inference.conftest import Stand

ASKED = "Who is the mayor of Velmora?"
TOKENS = 24


@pytest.mark.parametrize("rank", [1, 3, 4, 8])
def test_each_adapter_alone_answers_as_peft_does_with_its_published_files(
    stand: Stand, loaded_tiny: LoadedBase, tmp_path: Path, rank: int
) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=rank, rank=rank)
    manifest = read_manifest(stand.publisher.store, entry.manifest_key)
    for file in manifest.files:
        stand.publisher.store.download(manifest.key_of(file), tmp_path / file.name)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    prompt = loaded_tiny.chat.ask(ASKED)
    assert config["alora_invocation_tokens"] == list(prompt.activation)
    assert (config["r"], config["lora_alpha"]) == (rank, 2 * rank)
    plain = AutoModelForCausalLM.from_pretrained(loaded_tiny.description.path, dtype=torch.float32).eval()
    peft = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    written = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
    expected = loaded_tiny.chat.decode(written[0, ids.shape[1] :].tolist())
    by_name = stand.ask(stand.question(tenant, ASKED, model=entry.memory_id))
    through_the_gate = stand.ask(stand.question(tenant, ASKED))
    assert by_name.started.decision.served is not None
    assert by_name.started.decision.served.digest == manifest.adapter_digest
    assert by_name.text == through_the_gate.text == expected
    assert expected != stand.ask(stand.question(tenant, ASKED, mode="off")).text
