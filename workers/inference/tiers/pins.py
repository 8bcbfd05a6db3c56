"""Memories that an operator keeps loaded on this worker, by id, as vLLM's LoRA endpoints load adapters by name.

A pin is of a memory, not of an adapter: it follows the memory to its new versions, and ends where it is deleted. It
decides nothing about who may ask: unloaded memories are still served, hot-loaded like all others.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from core.errors import Conflict, InvalidRequest, LatentBankError, NotFound
from core.logs import get_logger
from core.truth import memories
from core.truth.audit import ADMIN, Action, Actor, record
from core.truth.database import Database
from workers.inference.banks.bank import Banks
from workers.inference.tiers.loaded import Wanted
from workers.inference.tiers.residency import Residency

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """Whose memory it is, and the adapter that is held for it."""

    tenant_id: str
    digest: str


class Pins:
    """Thread-safe. What is pinned is lost with the process: whoever wants it loaded says so to the next one."""

    def __init__(self, database: Database, banks: Banks, residency: Residency, worker_id: str) -> None:
        self._database = database
        self._worker_id = worker_id
        self._banks = banks
        self._residency = residency
        self._pins: dict[str, Pin] = {}
        self._lock = threading.Lock()

    @property
    def memory_ids(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._pins)

    def load(self, memory_id: str, *, in_place: bool = False) -> None:
        """Loads the memory's current adapter, into a slot where one is free, and keeps it until `unload`.

        Raises `InvalidRequest` where it is loaded already and not `in_place`, `NotFound` and `Conflict` as
        `Banks.require`, `Conflict` where no slot would be left for others, and what keeps the adapter from being
        loaded; nothing is then pinned.
        """
        pin, wanted = self._look_up(memory_id)
        with self._lock:
            before = self._pins.get(memory_id)
            if before is not None and not in_place:
                raise InvalidRequest(
                    f"The lora adapter '{memory_id}' has already been loaded. If you want to load the adapter in "
                    "place, set 'load_inplace' to True.",
                    param="lora_name",
                )
            self._move(memory_id, pin)
        try:
            self._record("adapter.loaded", memory_id, pin)
            adapter = self._residency.load(wanted)
            lease = self._residency.acquire({pin.digest: adapter})
        except (LatentBankError, SQLAlchemyError):
            self._drop(memory_id, pin)
            raise
        if lease is not None:
            # Where all slots are in use now it stays in RAM, and the first question that wants it brings it to one.
            lease.release()
        with self._lock:
            if self._pins.get(memory_id) != pin:
                self._let_go(pin)
                raise Conflict(f"The memory '{memory_id}' was unloaded, deleted or changed while it was being loaded.")
        log.info("memory pinned", memory_id=memory_id, tenant_id=pin.tenant_id, digest=pin.digest)

    def unload(self, memory_id: str) -> None:
        """The memory is held no longer: its adapter leaves RAM now, and its slot when no request uses it.

        Raises `NotFound` where it was not loaded by `load`.
        """
        with self._lock:
            pin = self._pins.pop(memory_id, None)
            if pin is None:
                raise NotFound(f"The lora adapter '{memory_id}' cannot be found.", param="lora_name")
            self._let_go(pin)
        self._record("adapter.unloaded", memory_id, pin)
        log.info("memory unpinned", memory_id=memory_id, tenant_id=pin.tenant_id, digest=pin.digest)

    def follow(self) -> None:
        """Follows the truth: a new version is loaded instead of the old one, a deleted memory is held no longer.

        Waits for no download. Called before banks forget what none of them names, so that those of pinned memories are
        among them, however many other tenants have asked since.
        """
        for memory_id, before in self._all().items():
            try:
                pin, wanted = self._look_up(memory_id)
                with self._lock:
                    if self._pins.get(memory_id) != before:
                        continue
                    self._move(memory_id, pin)
            except NotFound:
                self._drop(memory_id, before)
                log.info("pinned memory is gone", memory_id=memory_id, tenant_id=before.tenant_id)
                continue
            except LatentBankError as problem:
                log.warning("pinned memory can't be had now", memory_id=memory_id, code=problem.code)
                continue
            if not self._residency.holds(pin.digest):
                self._residency.prefetch(wanted)

    def _record(self, action: Action, memory_id: str, pin: Pin) -> None:
        """What an operator asked this worker for; whether it came about is in the worker's log."""
        with self._database.begin() as connection:
            told = {"worker_id": self._worker_id, "digest": pin.digest}
            record(connection, pin.tenant_id, Actor(ADMIN), action, ("memory", memory_id), told)

    def _look_up(self, memory_id: str) -> tuple[Pin, Wanted]:
        with self._database.read() as connection:
            found = memories.by_ids(connection, [memory_id]).get(memory_id)
        if found is None:
            raise NotFound(f"There is no memory '{memory_id}'.", param="lora_name")
        tenant_id = found[0].tenant_id
        bank = self._banks.current(tenant_id)
        self._banks.require(bank, [memory_id])
        wanted = Wanted(tenant_id, bank.members[memory_id].entry)
        return Pin(tenant_id, wanted.adapter_digest), wanted

    def _all(self) -> dict[str, Pin]:
        with self._lock:
            return dict(self._pins)

    def _move(self, memory_id: str, pin: Pin) -> None:
        """Under the lock. The old version first, so that the new one finds its place; `Conflict` leaves no pin."""
        before = self._pins.pop(memory_id, None)
        if before is not None and before != pin:
            self._let_go(before)
        self._residency.pin(pin.digest)
        self._pins[memory_id] = pin

    def _drop(self, memory_id: str, pin: Pin) -> None:
        with self._lock:
            if self._pins.get(memory_id) == pin:
                del self._pins[memory_id]
                self._let_go(pin)

    def _let_go(self, pin: Pin) -> None:
        """Under the lock, unless another memory is of the same bytes."""
        if all(other.digest != pin.digest for other in self._pins.values()):
            self._residency.unload(pin.digest)
