"""Questions that a sentence's own grammar answers: each clause, asked for each of its parts in several ways.

For plain English; every other language, and whatever the parser gets wrong, is left to the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spacy.language import Language
from spacy.tokens import Doc

from workers.distillation.trainer.grammar.clauses import Clause, Element, Mentions, clauses_of
from workers.distillation.trainer.grammar.nouns import of_nouns
from workers.distillation.trainer.grammar.people import is_human
from workers.distillation.trainer.grammar.phrasing import Stated, about, counted, lowered
from workers.distillation.trainer.grammar.wording import (
    active_past,
    asking_words,
    fronted,
    is_place,
    time_words,
    verb_group,
)
from workers.distillation.trainer.questions import content_words

MOST_WORDS = 22
"""Words of an answer; what is not asked for is left out of a longer one."""
MOST_CLAUSE_WORDS = 12
"""Words of a clause that is asked for; a longer one is no answer."""
_COST = ("weigh", "cost")
_LAST = ("last", "take")
_CORE = ("object", "complement", "clause")


def stated_of(sentences: Sequence[str], topic: str, parse: Language) -> list[list[Stated]]:
    """The questions of each sentence, the plainest first; pronouns are followed from sentence to sentence."""
    mentions = Mentions(topic)
    return [_of_sentence(document, topic, mentions) for document in parse.pipe(sentences)]


def _of_sentence(document: Doc, topic: str, mentions: Mentions) -> list[Stated]:
    found: dict[str, Stated] = {}
    nouns = list(of_nouns(document, topic, mentions))
    for clause in clauses_of(document, mentions):
        for stated in _of_clause(clause, topic):
            found.setdefault(stated.question.casefold(), stated)
    for stated in nouns:
        found.setdefault(stated.question.casefold(), stated)
    return [one for one in found.values() if _sound(one)]


def _sound(stated: Stated) -> bool:
    asked, told = content_words(stated.question), content_words(stated.span)
    return 3 <= len(stated.question.split()) <= 26 and bool(told - asked) and len(stated.span) > 1


def _of_clause(clause: Clause, topic: str) -> Iterator[Stated]:
    for element in clause.elements:
        for words, rest in _wordings(clause, element):
            for kept in _selections(clause, element):
                question = _question(clause, words, kept, rest, topic)
                yield Stated(question, _span(element), statement(clause, element))
    yield from _measures(clause, topic)
    yield from _by_whom(clause, topic)
    yield from _for_subject(clause, topic)


def statement(clause: Clause, target: Element | None) -> str:
    """The clause as a sentence of its own, short enough, with `target` in it."""
    elements = list(clause.elements)
    subject = clause.subject or ""
    words = len(f"{subject} {verb_group(clause)}".split()) + sum(len(e.text.split()) for e in elements)
    for element in reversed(clause.elements):
        if words <= MOST_WORDS:
            break
        if element is not target and element.role not in ("object", "complement"):
            elements.remove(element)
            words -= len(element.text.split())
    before = [element.text for element in elements if element.before and not _between(element)]
    between = [element.text for element in elements if element.before and _between(element)]
    after = [element.text for element in elements if not element.before]
    verbs = verb_group(clause) if clause.subject else clause.verb.lemma_
    told = " ".join([subject, *(lowered(text) for text in between), verbs, *after]).strip()
    if clause.subject is None and clause.negated:
        told = f"do not {told}"
    text = f"{', '.join(before)}, {lowered(told)}" if before else told
    return f"{text[0].upper()}{text[1:]}."


def _between(element: Element) -> bool:
    """Whether an adverb stands by the verb, as in "now has"."""
    return element.role == "adverb" and len(element.text.split()) == 1


def _span(element: Element) -> str:
    return element.text.removeprefix(element.preposition).strip()


def _wordings(clause: Clause, element: Element) -> Iterator[tuple[str, str]]:
    """Question words for an element, and the preposition that stays behind, if one does."""
    if element.role == "clause":
        short = len(element.text.split()) <= MOST_CLAUSE_WORDS
        if element.head.dep_ == "ccomp" and clause.verb.lemma_ != "be" and short:
            yield "What", ""
        return
    if element.role == "adverb" and element.head.dep_ != "npadvmod":
        return
    times = time_words(element) if element.role in ("preposition", "adverb") else []
    yield from ((words, "") for words in times)
    if times:
        return
    if element.role == "preposition":
        if is_place(element):
            yield "Where", element.preposition if element.preposition.casefold() == "from" else ""
        for words in asking_words(element):
            yield words, element.preposition
            if words != "Who":
                yield f"{element.preposition} {words[0].lower()}{words[1:]}", ""
    elif element.role == "object":
        if clause.verb.lemma_ in _COST:
            yield "How much", ""
            return
        if clause.verb.lemma_ in _LAST and time_words(element):
            yield "How long", ""
            return
        yield from ((words, "") for words in asking_words(element))
    elif clause.copula and element.head.pos_ in ("NOUN", "PROPN", "NUM"):
        subject = clause.subject_head
        if is_human(element.head) or (subject is not None and is_human(subject)):
            yield "Who", ""
        else:
            yield from ((words, "") for words in asking_words(element)[:1])


def _selections(clause: Clause, target: Element) -> Iterator[list[Element]]:
    """What else of the clause a question says: all of it, then only what the verb needs."""
    others = [element for element in clause.elements if element is not target]
    needed = [element for element in others if _is_needed(element) or (element.role == "adverb" and not element.before)]
    yield needed
    if others != needed:
        yield others


def _is_needed(element: Element) -> bool:
    """Whether the verb needs it, which a clause beside the main one ("…, riding as far as Hask") is not."""
    return element.role in _CORE and element.head.dep_ != "advcl"


def _question(clause: Clause, words: str, kept: Sequence[Element], behind: str, topic: str) -> str:
    front, rest = fronted(clause)
    subject = "you" if clause.subject is None else _named(clause, topic)
    parts = [words, front, subject, rest, *(element.text for element in kept if not element.before), behind]
    text = " ".join(part for part in parts if part)
    text += "".join(f" {lowered(element.text)}" for element in kept if element.before)
    return about(text, topic)


def _for_subject(clause: Clause, topic: str) -> Iterator[Stated]:
    """ "Who wrote the minutes?" """
    if clause.subject is None or clause.subject_head is None or clause.subject_head.pos_ == "PRON":
        return
    if content_words(clause.subject) <= content_words(topic) or not clause.elements:
        return
    if clause.subject_head.tag_ == "NNS" and not is_human(clause.subject_head):
        return
    words = "Who" if is_human(clause.subject_head) else "What"
    needed = [element for element in clause.elements if _is_needed(element) or element.role == "preposition"]
    for kept in ([e for e in needed if not e.before], list(clause.elements)):
        if not kept:
            continue
        parts = [words, verb_group(clause), *(element.text for element in kept if not element.before)]
        text = " ".join(parts) + "".join(f" {lowered(element.text)}" for element in kept if element.before)
        yield Stated(about(text, topic), clause.subject, statement(clause, None))


def _measures(clause: Clause, topic: str) -> Iterator[Stated]:
    """ "The cord is 90 centimetres long": "How long is the cord?" """
    if clause.subject is None:
        return
    front, rest = fronted(clause)
    for element in clause.elements:
        measured = [child for child in element.head.children if child.dep_ == "npadvmod" and counted(child)]
        if element.role in ("complement", "adverb") and measured:
            text = f"How {element.head.text} {front} {_named(clause, topic)} {rest}".strip()
            span = " ".join(token.text for token in measured[0].subtree)
            yield Stated(about(text, topic), span, statement(clause, element))
        elif element.role == "adverb" and counted(element.head) and not time_words(element):
            words = "How long" if clause.verb.lemma_ in _LAST else "How much"
            text = f"{words} {front} {_named(clause, topic)} {rest}".strip()
            yield Stated(about(text, topic), element.text, statement(clause, element))


def _by_whom(clause: Clause, topic: str) -> Iterator[Stated]:
    """ "The town was founded by Odrin Pell": "Who founded the town?" """
    form = active_past(clause) if clause.passive else None
    if form is None or clause.subject is None:
        return
    for element in clause.elements:
        if element.preposition.casefold() == "by" and not time_words(element):
            if not is_human(element.head) and element.head.pos_ != "PROPN" and len(element.text.split()) < 3:
                # "washed by hand" is how, not who.
                continue
            words = "Who" if is_human(element.head) else "What"
            others = [e.text for e in clause.elements if e is not element and not e.before]
            for kept in ([], others):
                text = " ".join([words, form, _named(clause, topic), *kept])
                yield Stated(about(text, topic), _span(element), statement(clause, element))


def _named(clause: Clause, topic: str) -> str:
    assert clause.subject is not None
    subject, head = clause.subject, clause.subject_head
    subject = lowered(subject)
    if head is None or head.pos_ != "NOUN":
        return subject
    whose = head.tag_ in ("NN", "NNS") and subject.startswith("the ") and " of " not in subject
    return f"{subject} of {topic}" if whose and not content_words(topic) & content_words(subject) else subject
