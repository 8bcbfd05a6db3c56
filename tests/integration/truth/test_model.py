"""The model of the state machine and the truth agree, move by move: what is explored of the one holds for the other."""

from __future__ import annotations

import random
from collections import Counter

from sqlalchemy import Connection, update

from core.errors import IllegalTransition, LeaseLost
from core.jobs.states import PHASES
from core.truth import jobs, memories
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Claim
from core.truth.tables import jobs as jobs_table
from core.truth.transitions import read_job, state_of
from tests.fixtures.truth import add_tenant, admit, publication
from tests.unit.core.jobs.model import Move, Rules, World, step

WALKS = 30
MOVES = 25
RULES = Rules(workers=3, max_attempts=3)
# Those that end a job are seldom, so that walks are long.
LIKELY = [*["claim"] * 9, *["advance"] * 6, "publish", "fail", "refuse", *["release"] * 2, "give_up", *["crash"] * 3]
LIKELY_OF_NOBODY = [*["expire"] * 3, *["reap"] * 4, "cancel", "delete"]


def test_every_move_does_to_the_truth_what_it_does_to_the_model(truth: Database) -> None:
    ends: Counter[str] = Counter()
    refused = 0
    for seed in range(WALKS):
        walk = _Walk(truth)
        chance = random.Random(seed)
        for _ in range(MOVES):
            move = _some_move(chance)
            before = walk.world
            walk.go(move)
            refused += walk.world == before
            assert walk.seen() == (walk.world.job, walk.world.deleted, walk.world.published), f"seed {seed}, {move}"
        ends[walk.world.job.state] += 1
    assert len(ends) >= 5, f"walks came to few ends: {ends}"
    assert refused > 50, "zombies and others that come too late were among them"


class _Walk:
    """One job in the model and in the truth."""

    def __init__(self, truth: Database) -> None:
        self._truth = truth
        self._tenant = add_tenant(truth)
        self._memory, self._job = admit(truth, self._tenant)
        self._claims: dict[int, Claim] = {}
        self.world: World = step(RULES.start(), Move("accept"), RULES)

    def go(self, move: Move) -> None:
        held = None if move.worker is None else self._claims.get(move.worker)
        try:
            with self._truth.begin() as connection:
                self._do(connection, move, held)
        except (LeaseLost, IllegalTransition):
            pass
        self.world = step(self.world, move, RULES)
        self._claims = {w: claim for w, claim in self._claims.items() if self.world.claims[w] is not None}
        epochs = tuple(self._claims[w].epoch if w in self._claims else None for w in range(RULES.workers))
        assert epochs == self.world.claims

    def seen(self) -> tuple[object, bool, int]:
        with self._truth.read() as connection:
            memory = memories.get_memory(connection, self._tenant.id, self._memory.id)
            return state_of(read_job(connection, self._job.id)), memory.status == "deleted", memory.version or 0

    def _do(self, connection: Connection, move: Move, held: Claim | None) -> None:
        match move.kind:
            case "claim" if held is None and move.worker is not None:
                claim = jobs.claim(connection, self._job.id, f"worker {move.worker}", 60.0)
                if claim is not None:
                    self._claims[move.worker] = claim
            case "expire":
                late = update(jobs_table).where(jobs_table.c.lease_until.is_not(None))
                connection.execute(late.values(lease_until=from_now(-1.0)))
            case "reap":
                jobs.reap(connection, RULES.max_attempts)
            case "cancel":
                jobs.request_cancel(connection, self._tenant.id, self._job.id)
            case "delete":
                memories.delete_memory(connection, self._tenant.id, self._memory.id)
        if held is not None:
            self._do_as_holder(connection, move, held)

    def _do_as_holder(self, connection: Connection, move: Move, held: Claim) -> None:
        match move.kind:
            case "advance":
                assert move.phase is not None
                progress = (PHASES.index(move.phase) + 1) / len(PHASES)
                jobs.advance(connection, held, move.phase, progress, "On the way.")
            case "publish":
                jobs.publish(connection, held, publication(1, f"{held.epoch}-{held.token}/manifest.json"))
            case "fail":
                jobs.finish(connection, held, "failed", "training_failed")
            case "refuse":
                jobs.finish(connection, held, "rejected", "wrong_base")
            case "release":
                jobs.release(connection, held)
            case "give_up":
                jobs.give_up(connection, held, RULES.max_attempts, None, None)


def _some_move(chance: random.Random) -> Move:
    if chance.random() < 0.25:
        return Move(chance.choice(LIKELY_OF_NOBODY))
    kind, worker = chance.choice(LIKELY), chance.randrange(RULES.workers)
    return Move(kind, worker, chance.choice(PHASES) if kind == "advance" else None)
