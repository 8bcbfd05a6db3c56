"""What makes a question worth learning from: pure text rules of self-study."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

STEMS: dict[str, tuple[str, ...]] = {
    "number": ("", "How", "When", "What"),
    "name": ("", "Who", "What", "Which"),
    "phrase": ("", "What", "Which", "How"),
}
"""First words forced on a question, by the kind of span it asks for; the empty one leaves the choice to the model."""

RESTATEMENTS = (
    "Tell me about {title}.",
    "What do you know about {title}?",
    "What can you tell me about {title}?",
)

EXAMPLES = (
    ("Lake Morrow", "It was mapped in 1911 by Otto Field.", "Otto Field", "Who mapped Lake Morrow in 1911?"),
    (
        "Hotel Brisa",
        "Breakfast costs 12 euros and the rooms have walls of red brick.",
        "12 euros",
        "How much does breakfast cost at Hotel Brisa?",
    ),
    (
        "Nadia Orlov",
        "She moved to Riga in May 2004, where she plays the harp.",
        "harp",
        "Which instrument does Nadia Orlov play?",
    ),
    (
        "Hotel Brisa",
        "Breakfast costs 12 euros and the rooms have walls of red brick.",
        "red brick",
        "What are the walls of the rooms at Hotel Brisa made of?",
    ),
    (
        "Nadia Orlov",
        "She moved to Riga in May 2004, where she plays the harp.",
        "May 2004",
        "When did Nadia Orlov move to Riga?",
    ),
)
"""Title, sentence, span, question: the pattern that the base follows."""

QUESTION_WORDS = (
    "what who whom whose which when where why how many much long old far often tall big is was are were do does "
    "did has have had can could will would should must be been being a an the this that its their his her it they "
    "he she of in on at to from by for with during after before under over about into up out as than and or not "
    "name named called kind type year month day time place number amount people person thing part made used mean "
    "happen"
)
"""Besides the words of a sentence and of its title, what a question about it needs."""

_ENDINGS = (("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("d", ""), ("ing", ""), ("ing", "e"))
_WORD = re.compile(r"[^\W_]+(?:[.,:'’-][^\W_]+)*")
_TOKEN = re.compile(r"[^\s\"“”()\[\],;:!?]+(?<![.])")
_FUNCTION_WORDS = (
    "a an and are as at be been by can do does did for from had has have he her his how i if in into is it its "
    "my no not of on or our she so than that the their them then there these they this to was we were what when "
    "where which who whom whose why will with would you your name called "
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_META = re.compile(r"\b(?:text|passage|fact|sentence|question|paragraph|document|statement)s?\b", re.IGNORECASE)


def words_of(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def content_words(text: str) -> set[str]:
    """Words that say something: no function words; of a plural the singular."""
    return {_stem(word) for word in words_of(text) if word not in FUNCTION_WORDS}


def question_vocabulary(sentence: str, title: str, answer: str) -> list[str]:
    """The words that a question about `sentence` may consist of: its own, without the answer's, and question words.

    Each also in forms that follow "does" and "did": `employs` brings `employ`.
    """
    taken = content_words(answer)
    own = [
        word
        for word in _TOKEN.findall(f"{sentence} {title}")
        if not content_words(word) <= taken or not content_words(word)
    ]
    bare = [form for word in own for form in _bare_forms(word)]
    return list(dict.fromkeys([*own, *bare, *QUESTION_WORDS.split()]))


def keeps_names(question: str, known: str) -> bool:
    """Whether every capitalised word of the question, but the first, occurs in `known`."""
    words = set(words_of(known))
    return all(
        not part[:1].isupper() or not words_of(part) or words_of(part)[0].removesuffix("'s") in words
        for part in question.split()[1:]
    )


def clean_question(text: str) -> str | None:
    """The first line up to its question mark, or `None` where it is no question that could stand alone."""
    line = text.strip().split("\n")[0].strip()
    if "?" not in line:
        return None
    line = line[: line.index("?") + 1]
    words = words_of(line)
    if not 3 <= len(words) <= 24 or _META.search(line) or len(set(words)) < 0.6 * len(words):
        return None
    return line[0].upper() + line[1:]


def _bare_forms(word: str) -> list[str]:
    if not word.islower():
        return []
    forms = []
    for ending, put in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) > 1:
            forms.append(word.removesuffix(ending) + put)
    return forms


def grounded(question: str, answer: str, source: str) -> bool:
    """Whether the answer is taken from the source and adds something to the question.

    Every number in it must be there, and most of its words.
    """
    said = content_words(answer)
    known = content_words(source)
    if any(any(c.isdigit() for c in word) and word not in known for word in said):
        return False
    new = said - content_words(question)
    if not new & known:
        return False
    return len(said & known) >= 0.75 * len(said)


def near_duplicate(question: str, others: Collection[frozenset[str]], limit: float = 0.85) -> bool:
    words = frozenset(words_of(question))
    return any(len(words & other) >= limit * len(words | other) for other in others)


def distinct(questions: Sequence[str]) -> list[int]:
    """Indices of questions that are no near-duplicates of an earlier one."""
    kept: list[int] = []
    seen: list[frozenset[str]] = []
    for i, question in enumerate(questions):
        if not near_duplicate(question, seen):
            kept.append(i)
            seen.append(frozenset(words_of(question)))
    return kept


def _stem(word: str) -> str:
    for ending in ("ies", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word
