"""The parts of `tests.benchmarks.distil` that need torch, each in a process of its own.

    python -m tests.benchmarks.distil_sides study|ours|plain|ask WORK.json RESULT.json

`study` finds the questions that both sides learn, and times the asking; `ours` and `plain` distil and are measured;
`ask` asks the adapters that they left behind. The base is loaded before any clock starts.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import load_adapter
from core.base_model.loading import LoadedBase, load_base
from core.base_model.prepare import prepare
from core.engine.decoding import prefill_shared, write
from core.settings import RecipeSettings
from tests.benchmarks.plain_loop import PlainRecipe, distil_plainly, generate, prompt_tokens
from tests.benchmarks.telling import tell
from workers.distillation.trainer.contexts import text_context
from workers.distillation.trainer.distilling import Distiller
from workers.distillation.trainer.engine import join_group
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import MemoryRequest, Phase, Reporter, RunRequest
from workers.distillation.trainer.rewording import Rewording
from workers.distillation.trainer.self_study import study

ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Work:
    """What a part is given, as JSON. Lists run over the documents.

    `learnt` are the questions that self-study found, `steps` the optimiser steps that our trainer took, `asked` the
    questions at the end. Document i's adapter is `directory/<side>/i`.
    """

    base: str
    base_dir: str
    encoder: str
    recipe: Mapping[str, Any]
    directory: str
    titles: Sequence[str]
    texts: Sequence[str]
    asked: Sequence[Sequence[str]]
    learnt: Sequence[Sequence[str]] = ()
    steps: Sequence[int] = ()

    @property
    def settings(self) -> RecipeSettings:
        return RecipeSettings.model_validate(self.recipe)

    def adapter(self, side: str, i: int) -> Path:
        return Path(self.directory) / side / str(i)


@dataclass(slots=True)
class Spent:
    """Wall and CPU seconds of what ran within `timed`, one entry a turn."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.add(wall, cpu)

    def add(self, wall: float, cpu: float) -> None:
        """Since the clocks stood at `wall` and `cpu`."""
        self.seconds.append(time.monotonic() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)


def main() -> None:
    side, given, result = sys.argv[1:]
    work = Work(**json.loads(Path(given).read_text()))
    done = {"study": studied, "ours": ours, "plain": plain, "ask": answered}[side](work)
    Path(result).write_text(json.dumps(done))


def studied(work: Work) -> dict[str, Any]:
    """The questions of our self-study, without its answers; and the seconds of asking, which both sides are charged."""
    base = _base(work)
    rewording = Rewording(base.model, base.chat.tokenizer)
    spent = Spent()
    learnt = []
    for title, text in zip(work.titles, work.texts, strict=True):
        wall, cpu = time.monotonic(), time.process_time()
        passes: list[str] = []

        def passed(message: str, passes: list[str] = passes, wall: float = wall, cpu: float = cpu) -> None:
            # The first pass is the asking.
            if not passes:
                spent.add(wall, cpu)
            passes.append(message)

        context = text_context(title, text, work.settings.parser)
        pairs = study(base, rewording, context, work.settings, Ranks(), passed).learn
        # Sentences with gaps, and words exchanged, are for our targets; who writes the plain loop has plain questions.
        plain = [pair.question for pair in pairs if not (pair.gap or pair.reworded)]
        learnt.append(list(dict.fromkeys(plain)))
        tell(f"questions: {title}: {len(learnt[-1])} to learn, asked in {spent.seconds[-1]:.1f} s")
    return {"learnt": learnt, **asdict(spent)}


def ours(work: Work) -> dict[str, Any]:
    """All documents by our trainer."""
    distiller = Distiller(join_group())
    distiller.warm(work.base, Path(work.base_dir), work.encoder)
    memories = []
    for i, (title, text) in enumerate(zip(work.titles, work.texts, strict=True)):
        context = Path(work.directory) / f"context-{i}.json"
        context.write_text(json.dumps({"kind": "text", "title": title, "text": text}))
        memories.append(MemoryRequest(f"{i}", title, "text", context, work.adapter("ours", i)))
    request = RunRequest("bench", work.base, Path(work.base_dir), work.encoder, work.settings, tuple(memories))
    spent = Spent()
    with spent.timed():
        outcomes = distiller.distil(request, Live(Path(work.directory)), set)
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        raise RuntimeError(f"Not all memories were made: {failed}")
    return {
        **asdict(spent),
        "peak_rss": _peak_rss(),
        "steps": [outcome.training["steps"] for outcome in outcomes],
        "seconds_by_phase": [dict(outcome.seconds_by_phase) for outcome in outcomes],
    }


def plain(work: Work) -> dict[str, Any]:
    """All documents by the plain loop, one after another; with as many steps and rows as our trainer saw."""
    model, tokenizer = _as_users_load_it(work)
    spent = Spent()
    for i, (title, text) in enumerate(zip(work.titles, work.texts, strict=True)):

        def progress(step: int, steps: int, loss: float, title: str = title) -> None:
            tell(f"plain: {title}: step {step} of {steps}, loss {loss:.3f}")

        with spent.timed():
            recipe = plain_recipe(work, i)
            student = distil_plainly(model, tokenizer, text, work.learnt[i], recipe, progress)
            student.save_pretrained(str(work.adapter("plain", i)))
            student.unload()
    recipes = [asdict(plain_recipe(work, i)) for i in range(len(work.texts))]
    return {**asdict(spent), "peak_rss": _peak_rss(), "recipe": recipes[0] | {"steps": list(work.steps)}}


def plain_recipe(work: Work, i: int) -> PlainRecipe:
    """As many rows as our trainer saw, in larger steps, which suit a loop that trains one memory at a time."""
    settings = work.settings
    plain = PlainRecipe(0, answer_tokens=settings.answer_tokens, seed=settings.seed)
    return replace(plain, steps=max(1, round(work.steps[i] * settings.batch_rows / plain.rows)))


def answered(work: Work) -> dict[str, Any]:
    """The answers to each document's questions by its adapter of either side: greedy, no context, no gate."""
    return {"ours": _answers_of_ours(_base(work), work), "plain": _answers_of_plain(_base(work), work)}


def _answers_of_ours(base: LoadedBase, work: Work) -> list[list[str]]:
    adapters = PackedAdapters(base.model, work.settings.targets, 2, work.settings.rank)
    answers = []
    for i, questions in enumerate(work.asked):
        adapter = load_adapter(work.adapter("ours", i))
        adapters.write(1, adapter.weights, adapter.scale)
        prompts = [base.chat.ask(question) for question in questions]
        written = write(
            base.model,
            prefill_shared(base.model, [prompt.prefix for prompt in prompts]),
            [prompt.activation for prompt in prompts],
            limit=ANSWER_TOKENS,
            end_tokens=base.end_tokens,
            adapters=adapters,
            slots=[1] * len(prompts),
        )
        answers.append([base.chat.decode(row.tokens) for row in written])
    return answers


def _answers_of_plain(base: LoadedBase, work: Work) -> list[list[str]]:
    tokenizer = base.chat.tokenizer
    answers = []
    for i, questions in enumerate(work.asked):
        student = PeftModel.from_pretrained(base.model, str(work.adapter("plain", i))).eval()
        prompts = [prompt_tokens(tokenizer, question) for question in questions]
        answers.append([base.chat.decode(row) for row in generate(student, tokenizer, prompts, ANSWER_TOKENS)])
        student.unload()
    return answers


class Live(Reporter):
    """Tells progress on standard error too."""

    def progress(self, phase: Phase, progress: float, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().progress(phase, progress, message, data)
        tell(f"ours: memory {(data or {}).get('memory_id', '?')}: {phase}: {message}")


def _as_users_load_it(work: Work) -> tuple[Any, Any]:
    """The base by `transformers` alone: without our packed weights and attention."""
    path = prepare(work.base, Path(work.base_dir)).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(path)


def _base(work: Work) -> LoadedBase:
    return load_base(prepare(work.base, Path(work.base_dir)))


def _peak_rss() -> int:
    """Bytes; Linux reports KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
