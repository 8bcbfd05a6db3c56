"""Jobs, in the words of OpenAI's fine-tuning jobs: list, look at, follow, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from core.jobs.states import ENDED
from core.truth.jobs import get_job, list_events, list_jobs, request_cancel
from core.truth.records import JobEvent
from gateway.auth import IngestTenant, ReadTenant, actor_of
from gateway.openapi import errors
from gateway.routes.parameters import AfterJob, Limit, OfMemory, known_id
from gateway.schemas import JobEventObject, JobObject, JobStatus, Page
from gateway.services import Parts
from gateway.sse import MEDIA_TYPE, event_stream
from gateway.views import event_object, job_object, page

EVENTS_AT_ONCE = 100

router = APIRouter(tags=["jobs"])
AfterEvent = Annotated[int, Query(ge=0, lt=2**63, description="Id of the last event already seen.")]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern="^[0-9]{1,18}$",
        description="Of an event stream: the id of the last event seen; goes before `after`.",
    ),
]
_STREAM: dict[str, Any] = {
    "description": "The events so far as a list; with `Accept: text/event-stream` as server-sent events, which go on "
    "until the job has ended and then say `data: [DONE]`.",
    "content": {MEDIA_TYPE: {"schema": {"description": "Each event's `data` is a job event."}}},
}


@router.get("/v1/jobs", responses=errors(400, 401, 403, 503))
def jobs(
    parts: Parts,
    tenant: ReadTenant,
    after: AfterJob = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
    memory_id: OfMemory = None,
) -> Page[JobObject]:
    """The tenant's jobs, newest first."""
    with parts.database.read() as connection:
        found = list_jobs(connection, tenant.id, after=after, limit=limit + 1, state=status, memory_id=memory_id)
        now = parts.database.now(connection)
    return page(found, limit, lambda job: job_object(job, now))


@router.get("/v1/jobs/{job_id}", responses=errors(401, 403, 404, 503))
def job(job_id: str, parts: Parts, tenant: ReadTenant) -> JobObject:
    with parts.database.read() as connection:
        found = get_job(connection, tenant.id, known_id("job", job_id))
        return job_object(found, parts.database.now(connection))


@router.post("/v1/jobs/{job_id}/cancel", responses=errors(401, 403, 404, 503))
def cancel(job_id: str, request: Request, parts: Parts, tenant: IngestTenant) -> JobObject:
    """A waiting job is cancelled at once, a running one at its next heartbeat; one that has ended stays as it is."""
    with parts.database.begin() as connection:
        found = request_cancel(connection, tenant.id, known_id("job", job_id), by=actor_of(request))
        return job_object(found, parts.database.now(connection))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_model=Page[JobEventObject],
    responses={200: _STREAM, **errors(400, 401, 403, 404, 503)},
)
async def events(
    job_id: str,
    request: Request,
    parts: Parts,
    tenant: ReadTenant,
    after: AfterEvent = 0,
    limit: Limit = 20,
    last_event_id: LastEventId = None,
) -> Page[JobEventObject] | Response:
    """The job's events, oldest first."""
    known_id("job", job_id)
    seen = after if last_event_id is None else int(last_event_id)

    def news(after: int, limit: int = EVENTS_AT_ONCE) -> tuple[Sequence[JobEvent], bool]:
        with parts.database.read() as connection:
            # The job before its events: the event of its end is written with its end.
            ended = get_job(connection, tenant.id, job_id).state in ENDED
            return list_events(connection, tenant.id, job_id, after=after, limit=limit), ended

    if MEDIA_TYPE not in request.headers.get("accept", ""):
        found, _ = await run_in_threadpool(news, seen, limit + 1)
        return page(found, limit, event_object)
    await run_in_threadpool(news, seen, 1)  # a 404 must come before the stream begins
    return event_stream(news, seen, parts.settings.gateway.event_poll_seconds, parts.stopping)
