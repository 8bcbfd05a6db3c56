"""What the gate looks at, for one candidate and one question. No feature depends on the rest of the bank."""

from __future__ import annotations

from dataclasses import dataclass, fields

DRAFT_TOKENS = 8
"""How many tokens of an answer the gate reads; the same in calibration and in serving, or the features would differ."""


@dataclass(frozen=True, slots=True)
class DraftSignals:
    """How adapter and base see the adapter's first drafted tokens; all in nats.

    `kl` is the mean over the draft of KL(adapter ‖ base); entropies are of the first answer token; `margin` is the mean
    gap of log-probability between the adapter's first and second choice; likelihoods are mean log-probabilities of the
    draft.
    """

    entropy_base: float
    entropy_adapter: float
    kl_first: float
    kl: float
    entropy_draft: float
    margin: float
    likelihood_adapter: float
    likelihood_base: float


@dataclass(frozen=True, slots=True)
class RetrievalSignals:
    """How well a memory's index matches a question.

    `dense` is the highest cosine similarity over the memory's entries; `lexical` the share of the question's
    informative words that occur in the memory, in 0 to 1. `matched` is the highest cosine similarity to a question of
    self-study with its answer, neither with the words of the memory's topic: whether this is asked, not whether it is
    about the subject.
    """

    dense: float
    lexical: float
    matched: float


@dataclass(frozen=True, slots=True)
class GroundingSignals:
    """How many informative words of a draft occur in the memory and not in the question (`supported`), and how many do
    not occur in the memory (`unsupported`)."""

    supported: float
    unsupported: float


FEATURES: tuple[str, ...] = (
    *(field.name for field in fields(RetrievalSignals)),
    *(field.name for field in fields(DraftSignals)),
    *(field.name for field in fields(GroundingSignals)),
    "entropy_drop",
    "likelihood_gain",
)


def vector(retrieval: RetrievalSignals, draft: DraftSignals, grounding: GroundingSignals) -> tuple[float, ...]:
    """The features in the order of `FEATURES`."""
    return (
        *(getattr(retrieval, field.name) for field in fields(retrieval)),
        *(getattr(draft, field.name) for field in fields(draft)),
        *(getattr(grounding, field.name) for field in fields(grounding)),
        draft.entropy_base - draft.entropy_adapter,
        draft.likelihood_adapter - draft.likelihood_base,
    )
