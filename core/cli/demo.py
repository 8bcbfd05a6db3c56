"""`latentbank demo`: the whole way of three contexts, on the embedded stack, with a verdict."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from core.cli import demo_screen as screen
from core.cli.ask import base_name, text_of
from core.cli.client import Api, ApiError, Json
from core.cli.demo_plan import DemoPlan, PlannedQuestion, examples_dir, read_plan
from core.cli.demo_report import Answered, DemoReport, MadeMemory, is_leak
from core.cli.output import console
from core.cli.progress import Watched, watch_jobs, why
from core.cli.stack import embedded, plan_stack, running_stack
from core.cli.up import prepare_base
from core.errors import LatentBankError
from core.settings import Settings

_ANSWER_TOKENS = 28
_DISTIL_SECONDS = 1800.0


@dataclass(slots=True)
class _Run:
    """What is known so far, so that a demo that breaks off still reports."""

    memories: list[MadeMemory] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    visible_ids: int = 0


def demo(
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the results there, as JSON.")] = None,
    examples: Annotated[Path | None, typer.Option(help="A directory with a demo.json of your own.")] = None,
    install_seconds: Annotated[
        float | None, typer.Option(help="How long the installation took; written into the results.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the demo's data directory.")] = False,
) -> None:
    """Distil three contexts of two tenants, ask about them, and check that no tenant sees the other's.

    Ends with 1 where a memory fails, fewer than two thirds of the questions are answered right, or anything leaks.
    """
    started = time.monotonic()
    out = console()
    settings = Settings()
    plan = read_plan(examples or examples_dir())
    run = _Run()
    broken: LatentBankError | None = None
    try:
        prepare_base(settings, out)
        with _data_dir(settings, out, keep) as data_dir:
            _perform(settings, plan, data_dir, run, out)
    except LatentBankError as problem:
        broken = problem
    except KeyboardInterrupt:
        out.print("stopped")
        raise typer.Exit(130) from None
    report = DemoReport(
        install_seconds, time.monotonic() - started, tuple(run.memories), tuple(run.answers), run.visible_ids
    )
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if broken is not None:
        raise broken
    screen.show_summary(out, report)
    if report.faults:
        raise typer.Exit(1)


def _perform(settings: Settings, plan: DemoPlan, data_dir: Path, run: _Run, out: Console) -> None:
    out.print("[bold]Starting the stack[/] (SQLite, local objects, Celery on its filesystem transport)")
    stack = plan_stack(settings, data_dir, embedded(data_dir))
    with (
        running_stack(stack, lambda line: out.print(f"  [green]✓[/] {line}")) as children,
        ExitStack() as closing,
    ):
        with Api(stack.gateway_url, stack.admin_key) as admin:
            keys = {name: admin.create_tenant(name)["api_key"] for name in plan.tenants}
        apis = {name: closing.enter_context(Api(stack.gateway_url, key)) for name, key in keys.items()}
        out.print(f"\n[bold]Remembering[/] {len(plan.memories)} contexts for {len(apis)} tenants")
        run.memories[:] = _remember(plan, apis, children.check, out)
        if all(memory.ready for memory in run.memories):
            _ask_all(plan, apis, run, out)
            run.visible_ids = _visible_ids(apis, run.memories)
        out.print("\nStopping the stack")


def _remember(plan: DemoPlan, apis: dict[str, Api], check: Callable[[], None], out: Console) -> list[MadeMemory]:
    offered: list[Json] = []
    since = time.time()
    for memory in plan.memories:
        offered.append(apis[memory.tenant].remember(memory.fields))
    watched = [
        Watched(apis[planned.tenant], accepted["job_id"], f"{planned.tenant}: {planned.title}")
        for planned, accepted in zip(plan.memories, offered, strict=True)
    ]
    jobs = watch_jobs(watched, out, timeout_seconds=_DISTIL_SECONDS, meanwhile=check)
    made = []
    for planned, accepted, job in zip(plan.memories, offered, jobs, strict=True):
        if job["status"] != "succeeded":
            out.print(f"  [red]✗[/] {escape(planned.title)}: {escape(why(job))}")
        held = apis[planned.tenant].memory(accepted["id"])
        seconds = float(job.get("finished_at") or time.time()) - float(job.get("started_at") or since)
        ready = job["status"] == "succeeded" and held["status"] == "ready"
        made.append(
            MadeMemory(accepted["id"], planned.title, planned.tenant, ready, seconds, int(held.get("bytes") or 0))
        )
    screen.show_memories(out, made)
    return made


def _ask_all(plan: DemoPlan, apis: dict[str, Api], run: _Run, out: Console) -> None:
    model = base_name(next(iter(apis.values())))
    titles = {memory.id: memory.title for memory in run.memories}
    kind = ""
    for question in plan.questions:
        if question.kind != kind:
            kind = question.kind
            screen.show_heading(out, question.kind)
        own = [memory.id for memory in run.memories if memory.tenant == question.tenant]
        answered = _ask(apis[question.tenant], model, question, own)
        run.answers.append(answered)
        screen.show_answer(out, answered, titles)


def _ask(api: Api, model: str, question: PlannedQuestion, own: Sequence[str]) -> Answered:
    messages = [{"role": "user", "content": question.text}]
    gated = api.chat(model, messages, {"mode": "auto"}, _ANSWER_TOKENS)
    base = api.chat(model, messages, {"mode": "off"}, _ANSWER_TOKENS)
    memory = gated.get("memory") or {}
    served_by = memory.get("served_by")
    answer, base_answer = text_of(gated), text_of(base)
    leaked = is_leak(question.kind, served_by, own, answer, base_answer, question.expected)
    return Answered(
        question.tenant,
        question.kind,
        question.text,
        question.expected,
        answer,
        base_answer,
        served_by,
        _best_score(memory),
        leaked,
    )


def _best_score(memory: Json) -> float | None:
    """The score of the memory that served, or of the best that the gate turned down."""
    if memory.get("score") is not None:
        return float(memory["score"])
    scores = [float(c["score"]) for c in memory.get("candidates") or [] if c.get("score") is not None]
    return max(scores, default=None)


def _visible_ids(apis: dict[str, Api], memories: Sequence[MadeMemory]) -> int:
    """How many memory ids can be read with a key that they do not belong to; each of them has to be a 404."""
    seen = 0
    for memory in memories:
        for name, api in apis.items():
            if name == memory.tenant:
                continue
            try:
                api.memory(memory.id)
                seen += 1
            except ApiError as refused:
                seen += refused.answered_status != 404
    return seen


@contextmanager
def _data_dir(settings: Settings, out: Console, keep: bool) -> Iterator[Path]:
    """A directory for truth and objects of this run; only the prepared base model is shared with other runs."""
    directory = Path(tempfile.mkdtemp(prefix="latentbank-demo-"))
    (directory / "bases").symlink_to(settings.base_dir.resolve(), target_is_directory=True)
    try:
        yield directory
    finally:
        if keep:
            out.print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
