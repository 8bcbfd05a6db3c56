"""Which nouns are people, so that they are asked for with "who"."""

from __future__ import annotations

from spacy.tokens import Token

_WORDS = (
    "person man woman boy girl child merchant founder leader mayor author owner manager captain chair president "
    "teacher cook editor keeper miller engineer doctor nurse coach chef head secretary treasurer wife husband "
    "sister brother mother father daughter son king queen duke emperor poet painter artist writer farmer friend "
    "botanist professor scientist director chairman minister officer soldier baker carpenter dentist lawyer judge "
    "pilot innkeeper technician assistant supervisor guide guest customer player singer composer explorer "
    "clockmaker speaker blacksmith worker clerk guard student pupil visitor resident neighbour uncle aunt cousin "
    "nephew niece parent grandfather grandmother inventor architect gardener fisherman sailor shepherd priest bishop "
    "monk nun mason weaver potter driver conductor keeper witness surgeon vet biologist chemist historian"
)
_PEOPLE = frozenset(_WORDS.split())


def is_human(head: Token) -> bool:
    return (
        head.ent_type_ == "PERSON"
        or head.lemma_.casefold() in _PEOPLE
        or (head.pos_ == "PROPN" and any(t.ent_type_ == "PERSON" for t in head.subtree))
    )
