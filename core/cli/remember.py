"""`latentbank remember`: a file or standard input becomes a memory; a folder or a JSONL file becomes many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from core.cli.client import Api, Json, open_api
from core.cli.output import console, print_json, size
from core.cli.progress import Watched, watch_jobs, why
from core.cli.sending import NO_ROOM, Outcome, send_all
from core.cli.sources import KEY_PREFIX, Common, context_of, holds_many, read, read_many, title_of
from core.errors import EmptyContext, InvalidRequest, LatentBankError
from core.settings import Settings

_AGAIN = "Run the same command again later: what was taken is not made twice."
_GONE = {
    "failed": "Its memory failed before",
    "deleted": "It was remembered before and forgotten",
}
"""Of a memory that its key still names."""


def remember(
    file: Annotated[
        str,
        typer.Argument(
            help="A text file, a JSON file with chat messages, or - for standard input; a folder of such files, or a "
            ".jsonl file with a memory on each line, becomes many."
        ),
    ],
    title: Annotated[str | None, typer.Option(help="What it is called; default: the file's name.")] = None,
    collection: Annotated[str | None, typer.Option(help="The collection it belongs to.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--meta", help="KEY=VALUE, as often as needed.")] = None,
    update: Annotated[str | None, typer.Option(metavar="MEMORY_ID", help="Make it that memory's new version.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Makes a repeated call return the first one's. Of many: what their keys begin with."),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Wait until the memory is ready; default: for one, not for many."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the memory as JSON; of many, a list of outcomes.")
    ] = False,
) -> None:
    """Distil a text or a chat into a memory, and show the progress until it is ready.

    With --update the memory serves its old version until then; its title stays, unless --title or a chat names another.
    """
    if update and collection:
        raise InvalidRequest("A memory stays in its collection; leave --collection out with --update.")
    common = Common(collection, dict(_pair(text) for text in metadata or ()), idempotency_key or KEY_PREFIX)
    if holds_many(file):
        if update or title:
            raise InvalidRequest("--update and --title are for one memory; a folder and a JSONL file are many.")
        _remember_many(file, common, wait=bool(wait), as_json=as_json)
    else:
        _remember_one(file, title, common, update, idempotency_key, wait=wait is not False, as_json=as_json)


def _remember_one(
    file: str,
    title: str | None,
    common: Common,
    update: str | None,
    idempotency_key: str | None,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    fields = context_of(read(file), title or ("" if update else title_of(file)))
    name = fields["title"] or title_of(file)
    if not fields["title"]:
        del fields["title"]
    if common.collection:
        fields["collection"] = common.collection
    if common.metadata:
        fields["metadata"] = common.metadata
    progress = console(stderr=as_json)
    with open_api(Settings()) as api:
        memory = api.update(update, fields, idempotency_key) if update else api.remember(fields, idempotency_key)
        if wait:
            (job,) = watch_jobs([Watched(api, memory["job_id"], name)], progress)
            if job["status"] != "succeeded":
                what = "new version" if update else "memory"
                progress.print(f"[red]The {what} did not come about:[/] {escape(why(job))}")
                raise typer.Exit(1)
            memory = api.memory(memory["id"])
    if as_json:
        print_json(memory)
    else:
        _tell(memory)


def _remember_many(file: str, common: Common, *, wait: bool, as_json: bool) -> None:
    """Ends with 1 where anything of it is no memory, or, if it is waited for, did not become one."""
    settings = Settings()
    aside = console(stderr=True)

    def pause(seconds: float) -> None:
        aside.print(f"The gateway does not take more just now; trying again in {seconds:.0f} s.")
        time.sleep(seconds)

    outcomes: list[Outcome] = []
    with open_api(settings) as api:
        try:
            for part in send_all(api, read_many(file, common), settings.limits.batch_memories, sleep=pause):
                outcomes += map(_without_gone, part)
                _report(outcomes[-len(part) :], len(outcomes), aside)
        except LatentBankError:
            aside.print(f"It broke off after {len(outcomes)}. {_AGAIN}")
            raise
        if not outcomes:
            raise EmptyContext(f"There is nothing in {file} to remember.")
        failed = _wait(api, outcomes, aside) if wait else 0
    without_room = [one for one in outcomes if one.code in NO_ROOM]
    if without_room:
        first = without_room[0]
        told = f"{first.place} and {len(without_room) - 1} more found no room: {first.message} {_AGAIN}"
        aside.print(told, markup=False, soft_wrap=True)
    if as_json:
        print_json([_shown(one) for one in outcomes])
    else:
        console().print(_summary(outcomes))
    if failed or any(one.refused for one in outcomes):
        raise typer.Exit(1)


def _report(part: Sequence[Outcome], so_far: int, aside: Console) -> None:
    """What has no room may be thousands, and is told once, at the end."""
    for one in part:
        if one.refused and one.code not in NO_ROOM:
            aside.print(f"{one.place}: {one.message}", markup=False, soft_wrap=True)
    aside.print(f"  {so_far} so far; of the last {len(part)}: {_summary(part)}")


def _summary(outcomes: Sequence[Outcome]) -> str:
    created = sum(one.created for one in outcomes)
    refused = sum(one.refused for one in outcomes)
    return f"{created} taken in, {len(outcomes) - created - refused} known already, {refused} refused"


def _without_gone(one: Outcome) -> Outcome:
    """What a key still names but can't answer is no memory."""
    if one.memory is None or one.created or one.memory["status"] not in _GONE:
        return one
    status = one.memory["status"]
    message = f"{_GONE[status]} ({one.memory['id']}); to have it made anew, give it another --idempotency-key."
    return Outcome(one.place, code=status, message=message)


def _wait(api: Api, outcomes: Sequence[Outcome], aside: Console) -> int:
    """How many jobs did not come to their memory."""
    pending = {one.memory["job_id"]: one.place for one in outcomes if one.memory and one.memory["status"] == "pending"}
    jobs = watch_jobs([Watched(api, job_id, place) for job_id, place in pending.items()], aside)
    failed = [job for job in jobs if job["status"] != "succeeded"]
    for job in failed:
        aside.print(f"{pending[job['id']]}: {why(job)}", markup=False, soft_wrap=True)
    return len(failed)


def _shown(one: Outcome) -> Json:
    status = "refused" if one.refused else "accepted" if one.created else "replayed"
    error = {"code": one.code, "message": one.message} if one.refused else None
    return {"place": one.place, "status": status, "memory": one.memory, "error": error}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidRequest(f"--meta takes KEY=VALUE, not {text!r}.")
    return key, value


def _tell(memory: Json) -> None:
    out = console()
    held = f", {size(memory.get('bytes'))}" if memory.get("bytes") else ""
    out.print(f"[bold]{escape(memory['title'])}[/] is {memory['status']}: {memory['id']}{held}")
