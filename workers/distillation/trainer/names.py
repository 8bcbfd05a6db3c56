"""What each speaker of a transcript is called: by their label, or by the name that they or the title say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.pipeline import Lemmatizer
from spacy.tokens import Doc, Span

from core.retrieval.entries import sentences_of
from workers.distillation.trainer.transcripts import ROLES, THE_USER


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOUNS = _words(
    "agent buyer caller candidate clerk client coach customer doctor guest host interviewee interviewer moderator "
    "nurse operator owner patient seller student support teacher tenant therapist"
)
"""Labels that say what a speaker is, not what they are called."""

_NAME_WORD = re.compile(
    r"(?:(?:de|del|da|di|la|le|van|von|der|den|ten|bin|al|(?:Dr|Prof|Mr|Mrs|Ms)\.?) )*"
    r"[^\W\d_](?:['’-]?[^\W\d_])+(?![\w-])"
)
_MOST_NAME_WORDS = 4
# The surest first. `who` is what stands for the speaker.
_INTRODUCTIONS = tuple(
    re.compile(rf"\b{pattern} ", re.IGNORECASE)
    for pattern in (
        r"(?P<who>my) (?:full |real )?name(?:['’]?s| is)",
        r"(?P<who>this) is(?= [^,.;!?]+ (?:speaking|here|writing)\b)",
        r"(?P<who>I)(?:['’]?m| am) called",
        r"(?P<who>I)(?:['’]?m| am)",
        r"(?<!n't )(?<!n’t )(?<!not )(?<!never )call (?P<who>me)",
    )
)
_UNSURE = 3
"""Of this one the words after it must look like a person's name: "I'm Swiss" gives none."""
_NO_PERSON = frozenset({"NORP", "LANGUAGE", "DATE", "EVENT", "PRODUCT", "WORK_OF_ART", "LAW"})
_IN_TITLE = re.compile(r"(?:^|\b(?:(?P<announced>with)|for|of|by|from) )(?=[^\W\d_a-z])")
_ASSISTANTS = _words("ai alexa assistant chatgpt claude copilot gemini gpt llama siri smollm")


@dataclass(frozen=True, slots=True)
class Introduction:
    """`who` is where the word for the speaker starts ("My", "I"); `sure` is less for the surer forms."""

    name: str
    who: int
    sure: int


def names_of(turns: Sequence[tuple[str, str]], title: str, nlp: Language) -> dict[str, str]:
    """What each label's speaker is called in a sentence; the user by their own name, if they or the title say it."""
    names = {label: _called(label.strip()) for label, _ in turns}
    if THE_USER in names.values():
        words = [words for label, words in turns if names[label] == THE_USER]
        user = _own_name(words, title, set(names.values()), nlp)
        names = {label: user if name == THE_USER else name for label, name in names.items()}
    return names


def introductions_in(doc: Doc, nlp: Language) -> Iterator[Introduction]:
    """The names that a speaker gives themselves in a sentence."""
    for sure, pattern in enumerate(_INTRODUCTIONS):
        for match in pattern.finditer(doc.text):
            name = _name_at(doc.text, match.end())
            if name and not _in_quotes(doc.text, match.start()) and _is_given(doc, match.end(), name, sure, nlp):
                yield Introduction(name, match.start("who"), sure)


def is_word(nlp: Language, word: str, *kinds: str) -> bool:
    """Whether the pipeline's dictionary holds the base form `word` as one of `kinds` ("verb", "noun", "adj")."""
    lemmatizer = nlp.get_pipe("lemmatizer")
    assert isinstance(lemmatizer, Lemmatizer)
    index = lemmatizer.lookups.get_table("lemma_index")
    return any(word in index[kind] for kind in kinds)


def _called(label: str) -> str:
    low = label.casefold()
    if role := ROLES.get(low):
        return role
    if low in _NOUNS:
        return f"the {low}"
    return label.title() if label.islower() or (label.isupper() and len(label) > 2) else label


def _own_name(turns: Sequence[str], title: str, others: set[str], nlp: Language) -> str:
    sentences = [sentence for words in turns for sentence in sentences_of(words)]
    said = [
        found
        for sentence in sentences
        if any(pattern.search(sentence) for pattern in _INTRODUCTIONS)
        for found in introductions_in(nlp(sentence), nlp)
    ]
    entitled = [(match, _name_at(title, match.end())) for match in _IN_TITLE.finditer(title)]
    if said:
        own = min(said, key=lambda found: found.sure).name
        known = [*(found.name for found in said), *(name for _, name in entitled)]
        return max((name for name in known if set(own.split()) < set(name.split())), key=len, default=own)
    doc = nlp(title)
    persons = (
        name
        for match, name in entitled
        if name
        and name not in others
        and _is_person(doc, match.end(), name, nlp, announced=match["announced"] is not None)
    )
    return next(persons, THE_USER)


def _name_at(text: str, start: int) -> str:
    """The capitalised words that `text` goes on with from `start`, four at most."""
    words: list[str] = []
    while len(words) < _MOST_NAME_WORDS and (match := _NAME_WORD.match(text, start)):
        own = match.group().removesuffix("'s").removesuffix("’s")
        if not own.split()[-1][0].isupper():
            break
        words.append(own)
        if own != match.group() or text[match.end() : match.end() + 1] != " ":
            break
        start = match.end() + 1
    return " ".join(words)


def _is_given(doc: Doc, start: int, name: str, sure: int, nlp: Language) -> bool:
    if doc.text[start + len(name) :].startswith(("'s", "’s")):
        return False  # "I'm Ron's mother"
    if sure == _UNSURE:
        return _is_person(doc, start, name, nlp)
    return sure < _UNSURE or not _kinds(_span(doc, start, name)) & _NO_PERSON  # "call me Monday"


def _in_quotes(text: str, at: int) -> bool:
    before = text[:at]
    return before.count('"') % 2 == 1 or before.count("“") > before.count("”")


def _span(doc: Doc, start: int, name: str) -> Span:
    span = doc.char_span(start, start + len(name), alignment_mode="expand")
    assert span is not None, "The name was found in the sentence."
    return span


def _kinds(span: Span) -> set[str]:
    """What the pipeline takes the words for: PERSON, GPE and the like."""
    return {entity.label_ for entity in span.doc.ents if entity.start < span.end and span.start < entity.end}


def _is_person(doc: Doc, start: int, name: str, nlp: Language, announced: bool = True) -> bool:
    """Whether `name` reads as a person's: a proper noun, no people or day, no words that all stand in a dictionary.

    Where nothing but its place announces it, the pipeline must take it for a name of two words, or a person's.
    """
    span = _span(doc, start, name)
    kinds = _kinds(span)
    if name.isupper() or kinds & _NO_PERSON or set(name.casefold().split()) & _ASSISTANTS:
        return False
    after = doc[span.end] if span.end < len(doc) else None
    if after is not None and (after.lower_ == "of" or after.tag_ in ("NN", "NNS", "JJ", "VBN")):
        return False
    if len(span) == 1 and (kinds & {"GPE", "LOC", "FAC"} or not (announced or "PERSON" in kinds)):
        return False
    proper = all(token.tag_[:2] == "NN" or token.is_punct or token.is_lower for token in span) and span[0].tag_ == "NNP"
    return "PERSON" in kinds or (proper and not _is_common(span if announced else span[:1], nlp))


def _is_common(span: Span, nlp: Language) -> bool:
    """Whether every word stands in the dictionary: "Team Lead", "Managing Director"."""
    forms = [(token.lower_, stem := token.lower_.removesuffix("ing"), f"{stem}e") for token in span]
    return all(any(is_word(nlp, form, "noun", "verb", "adj") for form in word) for word in forms)
