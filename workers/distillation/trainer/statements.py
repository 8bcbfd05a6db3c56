"""Questions that a sentence's own grammar gives: "The main export of X is Y" asks "What is the main export of X?".

Rules for plain English sentences with "be" or a common verb. They are clean where they apply; everything else, and
every other language, is left to the base model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.distillation.trainer.questions import FUNCTION_WORDS, words_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COPULA = re.compile(r"\s(is|was|are|were)\s")
_PARTICIPLE = re.compile(
    r"^(?:also |usually |often )?(\w+(?:ed|en|wn|ght|lt|de|nt|ld)) (by|in|on|at|from|of|with|for|to)\s+"
)
_NAMED = re.compile(r"^(called|named|known as)\s+(.+)$")
_YEAR = re.compile(r"^(?:the year )?(?:1[0-9]|20)\d\d\b")
_MOST_SUBJECT_WORDS = 9
_BE = ("is", "was", "are", "were")
_VERBS = {
    verb: verb.removesuffix("s")
    for verb in _words(
        "takes holds means costs weighs plays works lives drives makes contains lasts uses needs employs "
        "opens closes starts ends leaves stands measures produces grows sells serves leads owns runs "
        "stores listens speaks wears likes loves prefers hosts eats keeps comes boils covers begins"
    )
} | {"has": "have", "teaches": "teach", "studies": "study", "carries": "carry"}
_VERB = re.compile(rf"\s({'|'.join(sorted(_VERBS))})\s")
_COUNTED = re.compile(
    r"^(?:about |over |nearly )?((?:[\d.,]*\d|two|three|four|five|six|seven|eight|nine|ten|twelve)) ([a-z]{3,})\b"
)
_TIMES = _words("second minute hour day week month year")
_CLAUSE = re.compile(r",\s|;\s|\s(?:which|who|where|when|while|but|and (?:is|was|has|it|its|the|are|were|\w+s))\s")
_PRONOUNS = _words("it he she they")
_POSSESSIVES = _words("its his her their")
_NO_SUBJECT = _words("there this that these those who which what how if when where and or i you we nobody")
_OPENERS = _words("If When To In On At After Before Because While Every Each Most Never For From With")
_ARTICLES = _words("the a an its his her their my our this each every")
_WHO = _words(
    "director founder leader mayor author owner manager captain chair president teacher cook editor keeper miller "
    "engineer doctor nurse coach chef head secretary treasurer wife husband sister brother mother father daughter son"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A question, and the words of the sentence that answer it."""

    question: str
    span: str


def statements_of(sentence: str, title: str) -> list[Statement]:
    """The questions that the first copula or common verb of `sentence` answers; none where none reads well.

    They stand alone: a subject that does not name `title` gets it, `it` becomes it.
    """
    text = sentence.strip().rstrip(".!")
    found = _COPULA.search(text) or _VERB.search(text)
    if found is None:
        return []
    before, verb, after = text[: found.start()].strip(), found.group(1), text[found.end() :].strip()
    # A clause before the subject ("To open it, …") makes no subject.
    if not after or "," in before or not 0 < len(before.split()) <= _MOST_SUBJECT_WORDS:
        return []
    first, last = words_of(before)[:1], words_of(before)[-1:]
    if not first or first[0] in _NO_SUBJECT or last[0] in _NO_SUBJECT or before.split()[0] in _OPENERS:
        return []
    subject = _standing_alone(before, title)
    clause = _CLAUSE.split(after)[0].strip()
    if verb not in _BE:
        return _active(subject, verb, clause)
    if named := _NAMED.match(clause):
        return [
            Statement(f"What {verb} {subject} {named.group(1)}?", named.group(2)),
            Statement(f"What {verb} the name of {subject}?", named.group(2)),
        ]
    if passive := _PARTICIPLE.match(clause):
        return _passive(subject, verb, passive.group(1), passive.group(2), clause[passive.end() :])
    if verb in ("are", "were"):
        return []
    who = _is_person(clause) and (set(words_of(before)) & _WHO)
    return [Statement(f"{'Who' if who else 'What'} {verb} {subject}?", clause)]


def _active(subject: str, verb: str, rest: str) -> list[Statement]:
    base = _VERBS[verb]
    if number := _COUNTED.match(rest):
        unit = number.group(2)
        asked = [Statement(f"How many {unit} does {subject} {base}?", number.group(0))]
        if unit.rstrip("s") in _TIMES:
            asked.append(Statement(f"How long does {subject} {base}?", number.group(0)))
        return asked
    if verb == "has":
        return []
    head, _, _ = rest.partition(" ")
    if head == "that":
        return [Statement(f"What does {subject} {base}?", rest.removeprefix("that "))]
    if head in ("as", "in", "on", "at", "for", "to", "from", "with", "of"):
        return [Statement(f"What does {subject} {base} {head}?", rest.removeprefix(head).strip())]
    return [Statement(f"What does {subject} {base}?", rest)]


def _passive(subject: str, be: str, verb: str, preposition: str, rest: str) -> list[Statement]:
    if not rest:
        return []
    if preposition == "by":
        word = "Who" if _is_person(rest) else "What"
        return [Statement(f"{word} {be} {subject} {verb} by?", rest), Statement(f"Who {verb} {subject}?", rest)]
    if _YEAR.match(rest):
        return [
            Statement(f"When {be} {subject} {verb}?", rest),
            Statement(f"In which year {be} {subject} {verb}?", rest),
        ]
    return [Statement(f"What {be} {subject} {verb} {preposition}?", rest)]


def _is_person(words: str) -> bool:
    """Two or three capitalised words and nothing else before the clause goes on."""
    names = words.split()[:2]
    return len(names) == 2 and all(name[:1].isupper() and name.strip(".,").isalpha() for name in names)


def _standing_alone(subject: str, title: str) -> str:
    """`It` as the title, `The mayor` as `the mayor of <title>` where it names no word of it; a name stays as it is."""
    first, _, rest = subject.partition(" ")
    topic = _lowered(title)
    if not rest and first.casefold() in _PRONOUNS:
        return topic
    named = set(words_of(subject)) & (set(words_of(title)) - FUNCTION_WORDS)
    if first.casefold() in _POSSESSIVES and not named:
        return f"the {rest} of {topic}"
    # "the mayor" is whose? "the White Candle" has a name of its own.
    if first.casefold() == "the" and not named and rest == rest.casefold():
        return f"the {rest} of {topic}"
    return _lowered(subject)


def _lowered(words: str) -> str:
    first, _, rest = words.partition(" ")
    return f"{first.casefold()} {rest}" if first.casefold() in _ARTICLES else words
