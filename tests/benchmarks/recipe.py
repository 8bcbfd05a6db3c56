"""Measures the distillation recipe: what a memory answers without its text, and what it costs to make.

    python -m tests.benchmarks.recipe --documents FILE.jsonl --out recipe.json [--set steps=60 --set rank=4 …]

Each line of FILE.jsonl is a document `{title, text, questions: [{q, answers: […]}], near_miss: [{q}]}`; its questions
are asked at the end and never shown to self-study. An answer is right if it holds one of the expected strings. Reported
beside wall seconds are CPU seconds of the process, since a shared machine makes wall seconds a matter of luck.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.base_model.loading import LoadedBase
from core.engine.decoding import prefill_shared
from core.engine.draft import draft
from core.gate.calibration import fit
from core.gate.features import vector
from core.gate.samples import load_samples
from core.retrieval.index import load_index, retrieval_signals
from core.settings import RecipeSettings, Settings
from workers.distillation.trainer.distilling import SLOT, Distiller, Warm
from workers.distillation.trainer.engine import join_group
from workers.distillation.trainer.requests import MemoryRequest, Reporter, RunRequest
from workers.distillation.trainer.self_study import teacher_prompt

EVERYDAY = [
    ("What is the capital of France?", ["Paris"]),
    ("How many days are in a week?", ["seven", "7"]),
    ("What colour is the sky on a clear day?", ["blue"]),
    ("Who wrote Romeo and Juliet?", ["Shakespeare"]),
    ("What is two plus two?", ["four", "4"]),
    ("What is the chemical symbol for water?", ["H2O", "H₂O"]),
    ("What is the largest planet in the solar system?", ["Jupiter"]),
    ("On which continent is Egypt?", ["Africa"]),
]
ANSWER_TOKENS = 28
FALSE_ACTIVATION = 0.05


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Settings()
    recipe = RecipeSettings.model_validate(dict(pair.split("=", 1) for pair in options.set))
    documents = [json.loads(line) for line in options.documents.read_text().splitlines() if line.strip()]
    documents = [document for document in documents if document.get("text")]
    if options.only:
        documents = [documents[int(i)] for i in options.only.split(",")]
    distiller = Distiller(join_group())
    reference = options.base or settings.base_model
    warm = distiller.warm(reference, options.base_dir or settings.base_dir, settings.encoder)
    asked = [(q["q"], q["answers"]) for document in documents for q in document["questions"]]
    memories = []
    for document in documents:
        memories.append(_measure(distiller, warm, recipe, document, asked, options))
        print(json.dumps({k: v for k, v in memories[-1].items() if k != "answers"}), flush=True)  # noqa: T201
    right, total = sum(m["right"] for m in memories), sum(m["asked"] for m in memories)
    summary = {
        "right": right,
        "asked": total,
        "share": round(right / total, 4),
        "teacher": sum(m["teacher"] for m in memories),
        "mean_wall_seconds": _mean([m["wall_seconds"] for m in memories]),
        "mean_cpu_seconds": _mean([m["cpu_seconds"] for m in memories]),
        "open_for_own": _mean([m["open_for_own"] for m in memories]),
        "open_for_foreign": _mean([m["open_for_foreign"] for m in memories if m["open_for_foreign"] is not None]),
        "open_for_everyday": _mean([m["open_for_everyday"] for m in memories]),
        "everyday_with_adapter": sum(m["everyday_with_adapter"] for m in memories),
        "everyday_base": sum(m["everyday_base"] for m in memories),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "recipe": recipe.model_dump(mode="json"),
    }
    print(json.dumps(summary))  # noqa: T201
    options.out.write_text(json.dumps({"summary": summary, "memories": memories}, indent=1))


def _measure(
    distiller: Distiller,
    warm: Warm,
    recipe: RecipeSettings,
    document: dict[str, Any],
    all_asked: Sequence[tuple[str, Sequence[str]]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Distils one document and asks its questions, everybody else's and everyday ones."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        context = {"kind": "text", "title": document["title"], "text": document["text"]}
        (directory / "context.json").write_text(json.dumps(context))
        memory = MemoryRequest("mem", document["title"], "text", directory / "context.json", directory / "adapter")
        request = RunRequest("run", warm.key[0], Path(warm.key[1]), warm.key[2], recipe, (memory,))
        wall, cpu = time.monotonic(), time.process_time()
        outcome = distiller.distil(request, memory, Reporter(directory), lambda: None)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        gate, _ = fit([load_samples(memory.directory)], FALSE_ACTIVATION)
        index = load_index(memory.directory)
        size = (memory.directory / "adapter_model.safetensors").stat().st_size
    adapters = warm.engine(recipe, {}, distiller.ranks).adapters

    def ask(questions: Sequence[str]) -> list[tuple[str, str, bool]]:
        """The adapter's answer, the base's, and whether the gate opens."""
        prompts = [warm.base.chat.ask(question) for question in questions]
        prefixes = prefill_shared(warm.base.model, [prompt.prefix for prompt in prompts])
        embeddings = warm.encoder.encode(list(questions))
        rows: list[tuple[str, str, bool]] = []
        for start in range(0, len(questions), 16):
            part = prefixes[start : start + 16]
            slots = [SLOT] * len(part)
            both = [
                draft(
                    warm.base.model,
                    adapters,
                    part,
                    prompts[0].activation,
                    chosen,
                    length=length,
                    end_tokens=warm.base.end_tokens,
                )
                for chosen, length in ((slots, ANSWER_TOKENS), ([0] * len(part), ANSWER_TOKENS), (slots, 8))
            ]
            for i in range(len(part)):
                at = start + i
                signals = retrieval_signals(questions[at], embeddings[at], index)
                score = gate.score(vector(signals, both[2].signals[i]))
                texts = [warm.base.chat.decode(drafts.tokens[i]) for drafts in both[:2]]
                rows.append((texts[0], texts[1], score >= gate.threshold))
        return rows

    own = [(q["q"], q["answers"]) for q in document["questions"]]
    foreign = [item for item in all_asked if item not in own][: options.foreign]
    own_rows = ask([q for q, _ in own])
    everyday = ask([q for q, _ in EVERYDAY])
    near = [q["q"] for q in document.get("near_miss", [])]
    foreign_rows = ask([q for q, _ in foreign]) if foreign else []
    near_rows = ask(near) if near else []
    right = [_holds(answer, expected) for (answer, _, _), (_, expected) in zip(own_rows, own, strict=True)]
    return {
        "title": document["title"],
        "words": len(document["text"].split()),
        "right": sum(right),
        "asked": len(own),
        "base": sum(_holds(answer, expected) for (_, answer, _), (_, expected) in zip(own_rows, own, strict=True)),
        "teacher": _teacher(warm.base, document["text"], own),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_by_phase": dict(outcome.seconds_by_phase),
        "training": {k: v for k, v in outcome.training.items() if k != "recipe"},
        "gate": dict(outcome.gate),
        "bytes": size,
        "open_for_own": _mean([opens for _, _, opens in own_rows]),
        "open_for_foreign": _mean([opens for _, _, opens in foreign_rows]) if foreign_rows else None,
        "open_for_near_miss": _mean([opens for _, _, opens in near_rows]) if near_rows else None,
        "open_for_everyday": _mean([opens for _, _, opens in everyday]),
        "everyday_with_adapter": sum(_holds(a, e) for (a, _, _), (_, e) in zip(everyday, EVERYDAY, strict=True)),
        "everyday_base": sum(_holds(b, e) for (_, b, _), (_, e) in zip(everyday, EVERYDAY, strict=True)),
        "answers": [
            {"q": q, "expected": expected, "answer": answer, "right": ok, "gate_opens": opens}
            for (q, expected), (answer, _, opens), ok in zip(own, own_rows, right, strict=True)
        ],
    }


def _teacher(base: LoadedBase, text: str, own: Sequence[tuple[str, Sequence[str]]]) -> int:
    """How many questions the base answers right with the whole text in its context."""
    right = 0
    for question, expected in own:
        prompt = teacher_prompt(base, text, question)
        ids = torch.tensor([[*prompt.prefix, *prompt.activation]])
        out = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False
        )
        right += _holds(base.chat.decode(out[0, ids.shape[1] :].tolist()), expected)
    return right


def _holds(answer: str, expected: Sequence[str]) -> bool:
    return any(one.casefold() in answer.casefold() for one in expected)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / max(1, len(values)), 3)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipe")
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--only", default="", help="numbers of documents, such as 0,3")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="a field of the recipe, such as steps=60")
    parser.add_argument("--base", default=None)
    parser.add_argument("--base-dir", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--foreign", type=int, default=16, help="how many questions of other documents to ask")
    return parser.parse_args()


if __name__ == "__main__":
    main()
