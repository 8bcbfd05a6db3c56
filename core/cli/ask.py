"""`latentbank ask`: a question, its answer, and which memory gave it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from core.cli.client import Api, Json, open_api
from core.cli.output import console, print_json
from core.errors import InvalidRequest, Unavailable, message_of
from core.settings import Settings


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    memory: Annotated[list[str] | None, typer.Option(help="Only these memories, by id.")] = None,
    collection: Annotated[str | None, typer.Option(help="Only the memories of this collection.")] = None,
    mode: Annotated[str, typer.Option(help="auto: the gate decides; off: no memory; force: the best one.")] = "auto",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a question and see which memory answered it, or that none did."""
    if mode not in ("auto", "off", "force"):
        raise InvalidRequest("--mode is auto, off or force.")
    if memory and collection:
        raise InvalidRequest("Give --memory or --collection, not both.")
    extension: dict[str, Any] = {"mode": mode}
    if memory:
        extension["ids"] = memory
    if collection:
        extension["collection"] = collection
    with open_api(Settings()) as api:
        answer = api.chat(base_name(api), [{"role": "user", "content": question}], extension, max_tokens)
    if as_json:
        print_json(answer)
        return
    out = console()
    out.print(text_of(answer), markup=False)
    memory_report = answer.get("memory") or {}
    out.print(f"[dim]{escape(_source(memory_report))}[/]")
    for line in _unavailable(memory_report):
        out.print(f"[yellow]{escape(line)}[/]")


def base_name(api: Api) -> str:
    """The base model's name, under which the gate decides; every other model of the list is a memory."""
    names = [str(model["id"]) for model in api.models()]
    for name in names:
        if not name.startswith("mem_"):
            return name
    raise Unavailable("The gateway lists no base model; is an inference worker running?")


def text_of(answer: Json) -> str:
    return str(answer["choices"][0]["message"]["content"] or "").strip()


def _source(memory: Json) -> str:
    score = _score(memory.get("score"))
    if memory.get("served_by") == "text":
        return f"from the text of {memory.get('title') or ''} ({memory['memory_id']}), match {score}".replace("  ", " ")
    if memory.get("served_by"):
        return f"from the memory {memory.get('title') or ''} ({memory['served_by']}), gate {score}".replace("  ", " ")
    judged = [
        candidate
        for candidate in memory.get("candidates") or ()
        if not (candidate.get("unavailable") or candidate.get("by_text"))
    ]
    if judged:
        best = max(judged, key=lambda candidate: candidate.get("score") or 0.0)
        return f"without memory: the gate abstained (best candidate {_score(best.get('score'))})"
    return "without memory"


def _unavailable(memory: Json) -> list[str]:
    """A line for each memory that could not be judged now, and why."""
    absent = [candidate for candidate in memory.get("candidates") or [] if candidate.get("unavailable")]
    return [
        f"could not be asked: {one.get('title') or ''} ({one.get('memory_id')}): {_reason(str(one['unavailable']))}"
        for one in absent
    ]


def _reason(code: str) -> str:
    """An error's code in words, or as it is where a newer server has others."""
    return message_of(code) or code


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f}"
