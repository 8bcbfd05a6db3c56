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

from core.adapters.files import number_of_layer
from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import load_adapter, save_adapter
from core.adapters.validation import layers_of_base, validate_adapter
from core.base_model.description import BaseDescription
from core.base_model.loading import LoadedBase
from core.engine.decoding import hard_of, prefill_shared
from core.engine.draft import draft
from core.errors import AdapterInvalid
from core.gate.samples import load_samples
from core.retrieval.index import load_index
from core.settings import RecipeSettings, Settings
from tests.fixtures.ports import free_port
from workers.distillation.trainer.distilling import Distiller
from workers.distillation.trainer.engine import AdapterEngine, join_group, leave_group, read_config
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import MemoryRequest, Reporter, RunRequest
from workers.distillation.trainer.self_study import Pair, end_token
from workers.distillation.trainer.student import student_loss
from workers.distillation.trainer.targets import Lesson, base_lessons, lessons
from workers.distillation.trainer.training import Pupil, Trained, train

TITLE = "Skarvholm"
TEXT = "Skarvholm is an island. The keeper of Skarvholm is Ingrid Falk. She has a grey parrot."
RECIPE = RecipeSettings(
    steps=6, passes=1, max_pairs=12, batch_rows=4, question_tokens=8, answer_tokens=8, off_topic_tokens=4, rank=4
)
PHASES = ["self_study", "training", "calibrating"]
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


SLOT = 1


def _engine(base: LoadedBase, recipe: RecipeSettings, count: int = 1) -> AdapterEngine:
    """Room for `count` adapters; slot 1 is free for a finished one."""
    adapters = PackedAdapters(base.model, recipe.targets, SLOT + 1, recipe.rank)
    first = int(base.model.config.num_hidden_layers * recipe.untouched_layers)
    loss = student_loss(base.model, adapters, 1, recipe.alpha / recipe.rank, first)
    return AdapterEngine(base.model, adapters, read_config(None, 1), loss, count=count, first_layer=first)


def _lessons(base: LoadedBase, recipe: RecipeSettings, question: str, answer: str) -> list[Lesson]:
    tokens = (*base.chat.encode(answer), end_token(base))
    first = int(base.model.config.num_hidden_layers * recipe.untouched_layers)
    return lessons(base, [Pair(question, tokens, hard_of(tokens), 0, False, 0.0)], first)


def _train(
    engine: AdapterEngine, pupils: list[Pupil], recipe: RecipeSettings, ranks: Ranks, **options: Any
) -> list[Trained]:
    options = {"left_out": set, "progress": lambda *_: None, **options}
    return train(engine, pupils, recipe, ranks, **options)


@pytest.mark.parametrize("untouched", [0.0, 0.5])
def test_a_fact_is_learnt_and_peft_answers_alike(
    loaded_tiny: LoadedBase, ranks: Ranks, tmp_path: Path, tiny_base: BaseDescription, untouched: float
) -> None:
    # One layer needs more steps than two.
    recipe = RecipeSettings(
        steps=90 if untouched else 60,
        passes=1,
        learning_rate=2e-2,
        batch_rows=4,
        off_topic_tokens=12,
        rank=4,
        untouched_layers=untouched,
    )
    engine = _engine(loaded_tiny, recipe)
    adapters = engine.adapters
    others = ["What is rain?", "Who sings?"]
    learn = _lessons(loaded_tiny, recipe, *FACT)
    keep = base_lessons(loaded_tiny, others, recipe, ranks, int(2 * untouched))
    steps: list[int] = []
    (trained,) = _train(
        engine, [Pupil(learn, keep, learn)], recipe, ranks, progress=lambda _n, step, _s, _l: steps.append(step)
    )
    assert trained.losses[-1] < 0.1 * trained.losses[0]
    assert trained.held_out_loss is not None
    assert trained.held_out_loss < 0.2
    assert steps[-1] == recipe.steps
    # No gradient reached the base, nor an adapter the layers that are to be left alone.
    assert all(layer.base.weight.grad is None for layer in adapters.layers.values())
    assert {number_of_layer(name) for name in trained.weights} == ({1} if untouched else {0, 1})
    adapters.write(SLOT, trained.weights, recipe.alpha / recipe.rank)
    assert _answer(loaded_tiny, adapters, FACT[0], SLOT) == FACT[1]
    assert all(FACT[1] not in _answer(loaded_tiny, adapters, question, SLOT) for question in others)

    prompt = loaded_tiny.chat.ask(FACT[0])
    save_adapter(
        tmp_path,
        trained.weights,
        rank=recipe.rank,
        alpha=recipe.alpha,
        targets=recipe.targets,
        base_name="tiny",
        activation_tokens=prompt.activation,
        layers=[1] if untouched else None,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32)
    oracle = PeftModel.from_pretrained(model, tmp_path).eval()
    ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
    out = oracle.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    assert loaded_tiny.chat.decode(out[0, ids.shape[1] :].tolist()) == FACT[1]


def test_off_topic_rows_hold_the_adapter_to_the_base(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(
        steps=30, passes=1, learning_rate=2e-2, batch_rows=4, off_topic_tokens=8, rank=4, untouched_layers=0
    )
    engine = _engine(loaded_tiny, recipe, 2)
    learn = _lessons(loaded_tiny, recipe, *FACT)
    keep = base_lessons(loaded_tiny, ["What is rain?", "Who sings?"], recipe, ranks)
    kept, left = _train(engine, [Pupil(learn, keep, keep), Pupil(learn, [], keep)], recipe, ranks)
    assert kept.held_out_loss is not None
    assert left.held_out_loss is not None
    assert kept.held_out_loss < 0.5 * left.held_out_loss


def test_the_next_memory_starts_afresh(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(steps=5, passes=1, batch_rows=2, off_topic_share=0, rank=4)
    engine = _engine(loaded_tiny, recipe)
    learn = _lessons(loaded_tiny, recipe, *FACT)
    first, second = (_train(engine, [Pupil(learn, [], [])], recipe, ranks)[0] for _ in range(2))
    assert first.losses == second.losses


def test_memories_of_one_run_learn_as_if_each_were_alone(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(steps=8, passes=1, batch_rows=4, off_topic_share=0, rank=4)
    engine = _engine(loaded_tiny, recipe, 3)
    facts = [FACT, ("What is the dog called?", "Bess."), ("Where is it?", "In the far north of the sea.")]
    pupils = [Pupil(_lessons(loaded_tiny, recipe, *fact), [], []) for fact in facts]
    together = _train(engine, pupils, recipe, ranks)
    for pupil, one in zip(pupils, together, strict=True):
        (alone,) = _train(engine, [pupil], recipe, ranks)
        assert alone.losses == pytest.approx(one.losses, rel=1e-3)
        assert all(torch.allclose(b, one.weights[name][1], atol=1e-3) for name, (_, b) in alone.weights.items())


def test_a_memory_that_is_left_out_no_longer_moves_and_the_others_go_on(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(steps=6, passes=1, batch_rows=2, off_topic_share=0, rank=4)
    engine = _engine(loaded_tiny, recipe, 2)
    pupils = [Pupil(_lessons(loaded_tiny, recipe, *FACT), [], []) for _ in range(2)]
    asked = iter(range(100))
    left, stayed = _train(engine, pupils, recipe, ranks, left_out=lambda: {0} if next(asked) >= 2 else set())
    assert (len(left.losses), len(stayed.losses)) == (2, 6)
    two_steps = recipe.model_copy(update={"steps": 6})
    asked = iter(range(100))
    again = _train(engine, pupils[:1], two_steps, ranks, left_out=lambda: {0} if next(asked) >= 2 else set())[0]
    assert all(torch.allclose(b, left.weights[name][1], atol=1e-5) for name, (_, b) in again.weights.items())


def test_training_that_no_longer_helps_ends_with_the_weights_of_its_best_check(
    loaded_tiny: LoadedBase, ranks: Ranks
) -> None:
    plain = RecipeSettings(steps=160, passes=1, learning_rate=3e-2, batch_rows=4, rank=4)
    learn = _lessons(loaded_tiny, plain, *FACT)
    # What is held out contradicts what is learnt, so it gets worse soon.
    held_out = _lessons(loaded_tiny, plain, FACT[0], "Never in a thousand years.")
    engine, patient = _engine(loaded_tiny, plain), plain.model_copy(update={"patience": 2})
    long, short = (_train(engine, [Pupil(learn, [], held_out)], recipe, ranks)[0] for recipe in (plain, patient))
    assert len(short.losses) < len(long.losses)
    assert len(short.losses) % 16 == 0
    assert short.held_out_loss is not None
    assert long.held_out_loss is not None
    assert short.held_out_loss < long.held_out_loss


def test_a_new_version_starts_from_the_earlier_adapter(loaded_tiny: LoadedBase, ranks: Ranks) -> None:
    recipe = RecipeSettings(
        steps=40, update_steps=2, passes=0.1, learning_rate=2e-2, batch_rows=2, off_topic_share=0, rank=4
    )
    engine = _engine(loaded_tiny, recipe)
    learn = _lessons(loaded_tiny, recipe, *FACT)
    (first,) = _train(engine, [Pupil(learn, [], [])], recipe, ranks)
    (second,) = _train(engine, [Pupil(learn, [], [], start=first.weights)], recipe, ranks)
    assert len(second.losses) == 2
    assert second.losses[0] < 0.2 * first.losses[0]
    assert engine.takes(first.weights)
    assert not engine.takes(dict(list(first.weights.items())[1:]))
    assert not engine.takes({name: (a[:2], b[:, :2]) for name, (a, b) in first.weights.items()})
    with pytest.raises(AdapterInvalid):
        engine.reset(0, 0, {})


def _request(tmp_path: Path, tiny_base: BaseDescription, name: str) -> tuple[RunRequest, MemoryRequest]:
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"kind": "text", "title": TITLE, "text": TEXT}))
    memory = MemoryRequest("mem_a", TITLE, "text", context, tmp_path / name)
    encoder = Settings(_env_file=None).encoder
    base_dir = tiny_base.path.parent
    return RunRequest("run_a", tiny_base.reference, base_dir, encoder, RECIPE, (memory,)), memory


def test_several_ranks_make_the_same_adapter_as_one(tiny_base: BaseDescription, ranks: Ranks, tmp_path: Path) -> None:
    request, memory = _request(tmp_path, tiny_base, "one")
    (alone,) = Distiller(ranks).distil(request, Reporter(tmp_path), set)
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
        for number, ended in enumerate(result["memories"]):
            for key in ("asked", "pairs", "steps", "held_out"):
                assert ended["training"][key] == alone.training[key]
            assert ended["training"]["last_loss"] == pytest.approx(alone.training["last_loss"], rel=1e-2)
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
