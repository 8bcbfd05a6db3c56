"""Sentences put into the third person: names for "I", "you" and "we", and verbs that agree with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from spacy.language import Language
from spacy.tokens import Doc, Token

from workers.distillation.trainer.names import introductions_in
from workers.distillation.trainer.transcripts import THE_USER

_GROUP = "the group"
_PRONOUNS = {
    "i": ("I", ""), "me": ("I", ""), "my": ("I", "'s"), "mine": ("I", "'s"),
    "you": ("you", ""), "your": ("you", "'s"), "yours": ("you", "'s"),
    "we": ("we", ""), "us": ("we", ""), "our": ("we", "'s"), "ours": ("we", "'s"),
}  # fmt: skip
"""Whom a pronoun means, and what the name in its place ends in."""
_REFLEXIVE = {"myself": "I", "yourself": "you"}
_SUBJECTS = ("nsubj", "nsubjpass")
ANY_SUBJECT = (*_SUBJECTS, "expl", "csubj", "csubjpass")
"""What the parser calls subjects, clauses and "there" among them."""
_SINGULAR = {"am": "is", "are": "is", "were": "was", "have": "has", "do": "does"}
_SPELLED = {"'m": "am", "m": "am", "'re": "are", "re": "are", "'ve": "have", "ve": "have", "'ll": "will", "ll": "will"}
_CAUSES = ("help", "let", "make")
"""Verbs that a bare infinitive follows: "helps you find it"."""
_SAYS = ("say", "mention", "think", "know", "hope", "guess", "note")
"""Verbs that a whole clause follows: in "said you like tea" the parser takes "like" for a preposition."""
_LIKE_THEIR_PAST = ("put", "set", "cut", "let", "hit", "quit", "cost", "hurt", "shut", "split", "read", "beat", "bet")
_PAST = re.compile(r"\b(?:in (?:1\d|20)\d\d|ago|yesterday|last (?:night|week|month|year|\w+day))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker's view: what they are called, and whom "you" means, `None` where there are several others."""

    name: str
    user: bool
    other: str | None
    others: tuple[str, ...]

    def of(self, person: str) -> str | None:
        """Who is meant by "I", "you" or "we"; `None` where that is several others."""
        return {"I": self.name, "you": self.other, "we": _GROUP}[person]


def third_person(doc: Doc, voice: Voice, nlp: Language, start: int = 0) -> str:
    """The words of `doc` from `start`, with names for the pronouns of first and second person, and verbs that agree."""
    new = _renamed(doc, voice, nlp)
    text = ""
    for token in doc[start:]:
        word = new.get(token.i)
        if word is not None and text and text[-1].isalnum():
            text += " "  # "I'm" is one word, "Nora is" are two
        text += (token.text if word is None else word) + token.whitespace_
    return text


def _renamed(doc: Doc, voice: Voice, nlp: Language) -> dict[int, str]:
    """What stands in place of the tokens that change; nothing changes within quotes."""
    # "I am Nora" says who the user is, not that Nora is Nora.
    introducing = {found.who for found in introductions_in(doc, nlp) if voice.user and found.name in voice.name}
    new: dict[int, str] = {token.i: THE_USER for token in doc if token.idx in introducing and token.lower_ == "this"}
    quoted, paired = False, doc.text.count('"') % 2 == 0  # else it may stand for inches
    for token in doc:
        quoted = token.text == "“" if token.text in "“”" else quoted != (paired and token.text == '"')
        word = token.lower_
        person, ending = _PRONOUNS.get(word, (_REFLEXIVE.get(word, ""), ""))
        if quoted or not person or not _is_pronoun(token) or voice.of(person) is None:
            continue
        if person == "we" and not _is_simple(token):
            return {}
        name = THE_USER if token.idx in introducing else voice.of(person)
        new[token.i] = "themselves" if word in _REFLEXIVE else f"{name}{ending}"
        new |= _agreeing(token)
        after = doc[token.i + 1] if token.i + 1 < len(doc) else token
        if after.i not in new and not token.whitespace_ and (spelled := _spelled(after)) != after.lower_:
            new[after.i] = spelled
    return new


def _is_pronoun(token: Token) -> bool:
    if token.lower_ == "mine":  # which the pipeline often takes for a noun
        return token.tag_[0] != "V" and not any(part.dep_ in ("det", "amod", "compound") for part in token.children)
    entitled = token.ent_iob_ == "I" and token.ent_type_ in ("EVENT", "WORK_OF_ART", "FAC", "PRODUCT", "LAW")
    return token.tag_.startswith("PRP") and token.text != "US" and not entitled  # "World War I" is nobody


def _is_simple(token: Token) -> bool:
    """Whether "the group" can stand for it: not in "we both", "we two", "the rest of us"."""
    after = token.doc[token.i + 1 : token.i + 2].text.casefold()
    counted = after in ("all", "both", "each") or (token.dep_ in _SUBJECTS and after in ("two", "three", "four"))
    return not counted and token.head.lower_ != "of"


def _agreeing(subject: Token) -> dict[int, str]:
    """The finite verbs of a subject that is one person now, and of the verbs joined to them."""
    after = subject.doc[subject.i + 1 : subject.i + 2]
    if after.text == "like" and after[0].tag_ == "IN" and subject.head.lemma_ in _SAYS:
        return {after.start: "likes"}
    if subject.dep_ not in _SUBJECTS or subject.lower_ in ("me", "us") or _is_one_of_several(subject):
        return {}
    return {at: form for verb in _verbs_of(subject.head) for at, form in _finite(verb, subject).items()}


def _is_one_of_several(subject: Token) -> bool:
    """In "I and my son run", and in "My son and I run" even where the parser sees two clauses."""
    before = subject.doc[: subject.i]
    joined = len(before) > 1 and before[-1].dep_ == "cc" and not any(word.pos_ in ("VERB", "AUX") for word in before)
    return joined or any(child.dep_ == "conj" for child in subject.children)


def _verbs_of(verb: Token) -> Iterator[Token]:
    yield verb
    for child in verb.children:
        if child.dep_ == "conj" and not any(own.dep_ in ANY_SUBJECT for own in child.children):
            yield from _verbs_of(child)


def _finite(verb: Token, subject: Token) -> dict[int, str]:
    auxiliaries = [child for child in verb.children if child.dep_ in ("aux", "auxpass")]
    if any(child.tag_ == "TO" for child in auxiliaries):
        return {}
    finite = auxiliaries[0] if auxiliaries else verb
    spelled = _spelled(finite)
    if spelled == "were" and subject.lower_ == "i":
        return {}
    form = _SINGULAR.get(spelled, spelled)
    if form == finite.lower_ and not auxiliaries and _is_present(finite, subject):
        form = _with_s(form)
    if form == finite.lower_:
        return {}
    negation = {child.i: "not" for child in verb.children if child.dep_ == "neg" and child.text in ("n't", "n’t", "nt")}
    return {finite.i: form} | negation


def _is_present(verb: Token, subject: Token) -> bool:
    """Whether it is a plain present tense; the tagger takes some of these for infinitives, nouns and prepositions."""
    if verb.dep_ == "ccomp" and verb.head.lemma_ in _CAUSES:
        return False
    if verb.lower_ in _LIKE_THEIR_PAST and _PAST.search(verb.doc.text):
        return False
    if verb.tag_ == "VBP" or (verb.tag_ == "IN" and verb.lower_ == "like"):
        return True
    if verb.dep_ == "conj":
        is_noun = verb.tag_ != "VB" and any(child.dep_ in ("det", "amod", "poss") for child in verb.children)
        joined = verb.tag_ in ("VB", "NN") and verb.head.tag_ in ("VBP", "VB", "NN")
        return joined and not is_noun and not _shares_auxiliary(verb.head)
    return verb.tag_ == "VB" and (subject.lower_ != "you" or verb.dep_ != "ccomp")


def _shares_auxiliary(verb: Token) -> bool:
    """Whether what is joined goes on after the auxiliary: in "can swim and dive", not in "don't smoke but drink"."""
    joins = {child.dep_: child.lower_ for child in verb.children}
    if verb.dep_ == "conj" and "aux" not in joins:
        return _shares_auxiliary(verb.head)
    return "aux" in joins and not ("neg" in joins and joins.get("cc") in ("but", "yet"))


def _spelled(token: Token) -> str:
    """A contracted verb in full; "'d" is "had" before a participle."""
    word = token.lower_.replace("’", "'")
    if word not in ("'d", "d"):
        return _SPELLED.get(word, word)
    after = next((later for later in token.doc[token.i + 1 :] if later.pos_ not in ("ADV", "PART")), token)
    better = token.doc[token.i + 1 : token.i + 2].text.casefold() == "better"
    return "had" if better or after.tag_ in ("VBN", "VBD") else "would"


def _with_s(verb: str) -> str:
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb[-1] == "y" and verb[-2:-1] not in tuple("aeiou") else f"{verb}s"
