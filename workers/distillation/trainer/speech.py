"""What speakers say as facts that stand alone: "I'm allergic to nuts" becomes "Nora Felding is allergic to nuts".

Rules for plain English; what no rule fits stays as it was said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from spacy.language import Language
from spacy.tokens import Doc

from core.retrieval.entries import sentences_of
from workers.distillation.trainer.names import is_word, names_of
from workers.distillation.trainer.third_person import ANY_SUBJECT, Voice, third_person
from workers.distillation.trainer.transcripts import (
    THE_ASSISTANT,
    THE_USER,
    is_courtesy,
    is_user,
    without_phatics,
    without_vocatives,
)

_SILENT = ("the system", "the developer", "the tool", "the function")
"""Roles that nobody in a chat says "you" to."""

_LEANING = ("it", "that", "this", "those", "these", "they", "he", "she", "there")
_REASONS = ("because", "since", "when", "whenever", "if", "so", "until", "while", "although")
_STATES = ("love", "like", "hate", "prefer", "want", "need", "own", "have", "thank", "let")
"""Verbs that are rarely a request where they have no subject: "Love hiking", "Let's go"."""

_NUMBERING = re.compile(r"^\s*\d{1,2}[.)]\s+", re.MULTILINE)
_THANKS_FOR = re.compile(r"(?:many thanks|thanks|thank you)(?: (?:so|very) much| a lot)? for\b", re.IGNORECASE)
_CONTRACTED = re.compile(
    r"\b(my name|(?:my|your|our) (?:\w+ )?\w+(?=['’]s (?:an?|the|called|named|not|from|always|\d+)\b))['’]s\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"(?:yes|yeah|yep|no|nope)\b", re.IGNORECASE)
_QUESTION = re.compile(r"\?[\"'”’)\]]*$")
_TOLD_IN_QUESTION = re.compile(
    r"(?P<told>.+?)(?:,|;|\s[–—-])\s+(?:so |and |but )?(?:what|which|who|where|when|why|how|can|could|would|will|should"
    r"|do|does|did|is|are|any)\b.*\?$",
    re.IGNORECASE,
)
_POLITE_QUESTION = re.compile(r"(?:can|could|would|will) you (?:please (.+)|(.+?),? please)\?$", re.IGNORECASE)
_REQUEST = re.compile(
    r"(?:(?P<please>please|kindly|just|also|and)\b,? )*(?P<not>(?:don['’]?t|do not) (?:ever )?)?"
    r"(?P<adverb>(?:never|always|only|just) )?(?P<verb>[^\W\d_]+)\b",
    re.IGNORECASE,
)
_CLAUSE_FIRST = re.compile(
    r"(?P<clause>(?:when|whenever|if|for|in|from|before|after|while|during|next|at|on)\b[^,]*), "
    r"(?P<request>[^\W\d_].*?)(?P<end>[.!]*)$",
    re.IGNORECASE,
)
_LAST_PLEASE = re.compile(r",? please(?=[.!]*$)", re.IGNORECASE)


def facts_of(turns: Sequence[tuple[str, str]], title: str, nlp: Language) -> list[str]:
    """The sentences of `turns` in the third person, in order, without questions and courtesies.

    An answer that says nothing without its question is kept with it. Words of a speaker "" stay as they are.
    """
    names = names_of(turns, title, nlp)
    facts: list[str] = []
    asker, question = "", ""
    for label, words in turns:
        voice = _voice(label, names)
        asked = question if asker != voice.name else ""
        for sentence in sentences_of(_NUMBERING.sub("", words)):
            fact = _fact(sentence, voice, asked, nlp) if voice.name else sentence
            if fact:
                facts.append(fact)
                asked = asked if asked in fact else ""  # what follows a full answer leans on that
            if _QUESTION.search(sentence) and not is_courtesy(sentence, voice.others):
                asker, question = voice.name, re.sub('["“”]', "'", sentence)
        if asker != voice.name:
            question = ""
    return facts


def _voice(label: str, names: Mapping[str, str]) -> Voice:
    """User and assistant say "you" to each other, of two speakers each to the other."""
    name = names[label]
    others = tuple(dict.fromkeys(other for other in names.values() if other and other not in (name, *_SILENT)))
    if name != THE_ASSISTANT and (is_user(label) or name in _SILENT or THE_ASSISTANT in others):
        return Voice(name, is_user(label), THE_ASSISTANT, others)
    if len(others) > 1:
        return Voice(name, False, None, others)
    return Voice(name, False, others[0] if others else THE_USER, others)


def _fact(sentence: str, voice: Voice, asked: str, nlp: Language) -> str | None:
    """What one sentence says; `None` of a question or a courtesy. `asked` is what the other has just asked."""
    said = without_vocatives(sentence, voice.others)
    if _QUESTION.search(said):
        return _told_in_question(said, voice, nlp)
    if is_courtesy(said, voice.others):
        return _joined(asked, voice, said) if asked and _YES_NO.match(said) else None
    plain = without_vocatives(without_phatics(said), voice.others)
    plain = _CONTRACTED.sub(r"\1 is", _THANKS_FOR.sub("I thank you for", plain, count=1))
    doc = nlp(plain)
    polite = _LAST_PLEASE.search(plain) or plain.casefold().startswith("please")
    if asked and not polite and _leans(doc):
        return _joined(asked, voice, third_person(nlp(said), voice, nlp))
    if request := _request(plain, voice, nlp):
        return _capitalised(request)
    fact = third_person(doc, voice, nlp)
    if fact == plain:
        return sentence
    return None if _is_tautology(fact, voice.name) else _capitalised(fact)


def _told_in_question(said: str, voice: Voice, nlp: Language) -> str | None:
    """The statement before a question ("I live in Hask, can you …?"), or the request that "please" makes of one."""
    if polite := _POLITE_QUESTION.match(said):
        return _fact(f"Please {polite[1] or polite[2]}.", voice, "", nlp)
    match = _TOLD_IN_QUESTION.match(said)
    if match is None or re.search(r"\byou", match["told"], re.IGNORECASE):
        return None
    doc = nlp(match["told"])
    if doc[0].tag_[0] == "W" or doc[0].tag_ in ("MD", "VBZ", "VBP", "VBD") or _leans(doc):
        return None
    return _fact(f"{match['told']}.", voice, "", nlp)


def _joined(asked: str, voice: Voice, said: str) -> str:
    return f'Asked "{asked}", {voice.name} said: {said}'


def _leans(doc: Doc) -> bool:
    """Whether it needs the question: no subject of its own or a pronoun, a reason alone, "I do", "I have two"."""
    subjects = [child for root in doc if root.dep_ == "ROOT" for child in root.children if child.dep_ in ANY_SUBJECT]
    words = [token for token in doc if not token.is_punct]
    if not subjects or not words or subjects[0].lower_ in _LEANING:
        return True
    if words[0].lower_ in _REASONS and words[0].head.dep_ == "ROOT":
        return True
    bare = all(word.pos_ in ("PRON", "AUX", "PART", "INTJ", "ADV") or word.lemma_ in ("do", "have") for word in words)
    return bare or (words[-1].tag_ == "CD" and words[-1].dep_ == "dobj")


def _request(said: str, voice: Voice, nlp: Language) -> str | None:
    """An imperative as what the speaker asks the other to do; the assistant's own is advice."""
    if turned := _CLAUSE_FIRST.match(said):
        said = f"{turned['request']} {turned['clause'][0].lower()}{turned['clause'][1:]}{turned['end']}"
    match = _REQUEST.match(said)
    plain = _LAST_PLEASE.sub("", said)
    polite = plain != said or "please" in said[: match.start("verb")].casefold() if match else False
    if match is None or not is_word(nlp, match["verb"].casefold(), "verb") or match["verb"].casefold() in _STATES:
        return None
    doc = nlp(plain)
    verb = next((token for token in doc if token.idx == match.start("verb")), None)
    if verb is None or any(child.dep_ in ANY_SUBJECT and child.i < verb.i for child in verb.children):
        return None
    if not polite and (verb.tag_ not in ("VB", "VBP") or verb.dep_ != "ROOT"):
        return None
    asks = "advises" if voice.name == THE_ASSISTANT and not polite else "asks"
    adverb = (match["adverb"] or "").casefold()
    to = "never to " if adverb == "never " else f"{'not ' if match['not'] else ''}to {adverb}"
    wish = third_person(doc, voice, nlp, start=verb.i)
    return f"{voice.name} {asks} {voice.other or 'the others'} {to}{wish[0].lower()}{wish[1:]}"


def _is_tautology(fact: str, name: str) -> bool:
    return fact.rstrip(".! ") in (f"{name} is {name}", f"{name}'s name is {name}")


def _capitalised(fact: str) -> str:
    return fact[:1].upper() + fact[1:]
