"""The trainer on a tiny real Llama: it learns a fact, on one rank and on several, and PEFT agrees with its export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import load_adapter, save_adapter
from core.adapters.validation import layers_of_base, validate_adapter
from core.base_model.description import BaseDescription
from core.base_model.loading import LoadedBase
from core.engine.decoding import hard_of, prefill_shared
from core.engine.draft import draft
from core.gate.samples import load_samples
from core.retrieval.index import load_index
from core.settings import RecipeSettings, Settings
from tests.fixtures.ports import free_port
from workers.distillation.trainer.distilling import SLOT, Distiller
from workers.distillation.trainer.engine import AdapterEngine, join_group, leave_group, read_config
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import MemoryRequest, Reporter, RunRequest
from workers.distillation.trainer.self_study import Pair, end_token
from workers.distillation.trainer.targets import base_lessons, lessons
from workers.distillation.trainer.training import student_loss, train

TITLE = "Skarvholm"
TEXT = "Skarvholm is an island. The keeper of Skarvholm is Ingrid Falk. She has a grey parrot."
RECIPE = RecipeSettings(
    steps=6, passes=1, max_pairs=12, batch_rows=4, question_tokens=8, answer_tokens=8, off_topic_tokens=4, rank=4
)
FACT = ("Who keeps the light?", "Ingrid Falk.")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """A process group of this process alone; the environment is as before when it ends."""
    before = dict(os.environ)
    torch.set_num_threads(1)
    yield join_group()
    leave_group()
    os.environ.clear()
    os.environ.update(before)


def _answer(base: LoadedBase, adapters: PackedAdapters, question: str, slot: int, length: int = 16) -> str:
    prompt = base.chat.ask(question)
    prefixes = prefill_shared(base.model, [prompt.prefix])
    drafts = draft(base.model, adapters, prefixes, prompt.activation, [slot], length=length, end_tokens=base.end_tokens)
    return base.chat.decode(drafts.tokens[0])


def test_a_fact_is_learnt_and_peft_answers_alike(
    loaded_tiny: LoadedBase, ranks: Ranks, tmp_path: Path, tiny_base: BaseDescription
) -> None:
    recipe = RecipeSettings(steps=60, passes=1, learning_rate=2e-2, batch_rows=4, off_topic_tokens=12, rank=4)
    adapters = PackedAdapters(loaded_tiny.model, recipe.targets, SLOT + 1, recipe.rank)
    engine = AdapterEngine(
        loaded_tiny.model, adapters, read_config(None, 1), student_loss(loaded_tiny.model, adapters, 1)
    )
    others = ["What is rain?", "Who sings?"]
    tokens = (*loaded_tiny.chat.encode(FACT[1]), end_token(loaded_tiny))
    learn = lessons(loaded_tiny, [Pair(FACT[0], tokens, hard_of(tokens), 0, False, 0.0)])
    keep = base_lessons(loaded_tiny, others, recipe, ranks)
    steps: list[int] = []
    trained = train(
        engine,
        learn,
        keep,
        learn,
        recipe,
        ranks,
        slot=SLOT,
        check=lambda: None,
        progress=lambda step, _steps, _loss: steps.append(step),
    )
    assert trained.losses[-1] < 0.1 * trained.losses[0]
    assert trained.held_out_loss is not None
    assert trained.held_out_loss < 0.2
    assert steps[-1] == 60
    assert _answer(loaded_tiny, adapters, FACT[0], SLOT) == FACT[1]
    assert all(FACT[1] not in _answer(loaded_tiny, adapters, question, SLOT) for question in others)
    # Only the slot that was trained has anything in it, and no gradient reached the base.
    assert all(not layer.a[0].any() and not layer.b[0].any() for layer in adapters.layers.values())
    assert all(layer.base.weight.grad is None for layer in adapters.layers.values())

    prompt = loaded_tiny.chat.ask(FACT[0])
    save_adapter(
        tmp_path,
        engine.read(SLOT),
        rank=recipe.rank,
        alpha=recipe.alpha,
        targets=recipe.targets,
        base_name="tiny",
        activation_tokens=prompt.activation,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32)
    oracle = PeftModel.from_pretrained(model, tmp_path).eval()
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    out = oracle.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    assert loaded_tiny.chat.decode(out[0, ids.shape[1] :].tolist()) == FACT[1]


def test_off_topic_rows_hold_the_adapter_to_the_base(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(steps=30, passes=1, learning_rate=2e-2, batch_rows=4, off_topic_tokens=8, rank=4)
    adapters = PackedAdapters(loaded_tiny.model, recipe.targets, SLOT + 1, recipe.rank)
    engine = AdapterEngine(
        loaded_tiny.model, adapters, read_config(None, 1), student_loss(loaded_tiny.model, adapters, 1)
    )
    tokens = (*loaded_tiny.chat.encode(FACT[1]), end_token(loaded_tiny))
    learn = lessons(loaded_tiny, [Pair(FACT[0], tokens, hard_of(tokens), 0, False, 0.0)])
    keep = base_lessons(loaded_tiny, ["What is rain?", "Who sings?"], recipe, ranks)
    kept, left = (
        train(engine, learn, rows, keep, recipe, ranks, slot=SLOT, check=lambda: None, progress=lambda *_: None)
        for rows in (keep, [])
    )
    assert kept.held_out_loss is not None
    assert left.held_out_loss is not None
    assert kept.held_out_loss < 0.5 * left.held_out_loss


def test_the_next_memory_starts_afresh(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(steps=5, passes=1, batch_rows=2, off_topic_share=0, rank=4)
    adapters = PackedAdapters(loaded_tiny.model, recipe.targets, SLOT + 1, recipe.rank)
    engine = AdapterEngine(
        loaded_tiny.model, adapters, read_config(None, 1), student_loss(loaded_tiny.model, adapters, 1)
    )
    tokens = (*loaded_tiny.chat.encode(FACT[1]), end_token(loaded_tiny))
    learn = lessons(loaded_tiny, [Pair(FACT[0], tokens, hard_of(tokens), 0, False, 0.0)])
    first, second = (
        train(engine, learn, [], [], recipe, ranks, slot=SLOT, check=lambda: None, progress=lambda *_: None)
        for _ in range(2)
    )
    assert first.losses == second.losses


def _request(tmp_path: Path, tiny_base: BaseDescription, name: str) -> tuple[RunRequest, MemoryRequest]:
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"kind": "text", "title": TITLE, "text": TEXT}))
    memory = MemoryRequest("mem_a", TITLE, "text", context, tmp_path / name)
    encoder = Settings(_env_file=None).encoder
    base_dir = tiny_base.path.parent
    return RunRequest("run_a", tiny_base.reference, base_dir, encoder, RECIPE, (memory,)), memory


def test_several_ranks_make_the_same_adapter_as_one(tiny_base: BaseDescription, ranks: Ranks, tmp_path: Path) -> None:
    request, memory = _request(tmp_path, tiny_base, "one")
    alone = Distiller(ranks).distil(request, memory, Reporter(tmp_path), lambda: None)
    assert alone.training["last_loss"] < alone.training["first_loss"]
    validate_adapter(
        memory.directory,
        expected_layers=layers_of_base(tiny_base.path, RECIPE.targets),
        base_digest=tiny_base.digest,
    )
    index = load_index(memory.directory, encoder=request.encoder)
    assert TITLE in index.entries
    assert {sample.kind for sample in load_samples(memory.directory)} == {"own", "near_miss", "unrelated"}

    # Two memories each, so that the second also shows a fresh start on a warm engine.
    for name, arguments in (("ranks", ()), ("zero3", ("--deepspeed-config", str(_zero3(tmp_path))))):
        result = _launch(request, tmp_path / name, 2, *arguments)
        assert result["ok"], result
        for number, told in enumerate(result["memories"]):
            for key in ("asked", "pairs", "steps", "held_out"):
                assert told["training"][key] == alone.training[key]
            assert told["training"]["last_loss"] == pytest.approx(alone.training["last_loss"], rel=1e-2)
            one = load_adapter(memory.directory).weights
            other = load_adapter(tmp_path / name / f"adapter-{number}").weights
            assert all(torch.allclose(b, other[layer][1], atol=2e-3) for layer, (_, b) in one.items())


def _zero3(tmp_path: Path) -> Path:
    """`infra/deepspeed/zero3.json` for a CPU, and with nothing too small to be partitioned."""
    config = read_config(Path("infra/deepspeed/zero3.json"), 2)
    del config["bf16"]
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (tmp_path / "zero3.json").write_text(json.dumps(config))
    return tmp_path / "zero3.json"


def _launch(request: RunRequest, directory: Path, count: int, *arguments: str) -> dict[str, Any]:
    """The result of the request's memory, twice, by DeepSpeed's launcher with `count` ranks."""
    inbox = directory / "inbox"
    run = inbox / request.run_id
    run.mkdir(parents=True)
    memory = request.memories[0]
    fields = {
        "run_id": request.run_id,
        "base_reference": request.base_reference,
        "base_dir": str(request.base_dir),
        "encoder": request.encoder,
        "recipe": request.recipe.model_dump(mode="json"),
        "memories": [
            {
                "memory_id": f"mem_{number}",
                "title": memory.title,
                "kind": memory.kind,
                "context_path": str(memory.context_path),
                "directory": str(directory / f"adapter-{number}"),
            }
            for number in range(2)
        ],
    }
    (run / "request.json").write_text(json.dumps(fields))
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(count)]
    address = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    trainer = ["--module", "workers.distillation.trainer", "--inbox", str(inbox), "--parent", str(os.getpid())]
    outside = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    with (directory / "log").open("wb") as log:
        group = subprocess.Popen(
            [*launcher, *address, *trainer, "--threads", "1", *arguments],
            env={**environment, "DS_ACCELERATOR": "cpu"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 180
        while not (run / "result.json").exists():
            assert group.poll() is None, (directory / "log").read_text()[-3000:]
            assert time.monotonic() < end, (directory / "log").read_text()[-3000:]
            time.sleep(0.2)
        result: dict[str, Any] = json.loads((run / "result.json").read_text())
        return result
    finally:
        os.killpg(group.pid, signal.SIGTERM)
        group.wait(30)
