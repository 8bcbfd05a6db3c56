"""What speakers say as facts that stand alone: "I'm allergic to nuts" becomes "Nora Felding is allergic to nuts".

Rules for plain English; what no rule fits stays as it was said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.tokens import Doc, Token

from core.retrieval.entries import sentences_of
from workers.distillation.trainer.transcripts import (
    THE_ASSISTANT,
    THE_USER,
    introductions_in,
    is_courtesy,
    is_user,
    is_word,
    names_of,
    without_phatics,
    without_vocatives,
)

_GROUP = "the group"
_SILENT = ("the system", "the developer", "the tool", "the function")
"""Roles that nobody in a chat says "you" to."""

_PRONOUNS = {
    "i": ("I", ""), "me": ("I", ""), "my": ("I", "'s"), "mine": ("I", "'s"),
    "you": ("you", ""), "your": ("you", "'s"), "yours": ("you", "'s"),
    "we": ("we", ""), "us": ("we", ""), "our": ("we", "'s"), "ours": ("we", "'s"),
}  # fmt: skip
"""Whom a pronoun means, and what the name in its place ends in."""
_REFLEXIVE = {"myself": "I", "yourself": "you"}
_SUBJECTS = ("nsubj", "nsubjpass")
_ANY_SUBJECT = (*_SUBJECTS, "expl", "csubj", "csubjpass")
_SINGULAR = {"am": "is", "are": "is", "were": "was", "have": "has", "do": "does"}
_SPELLED = {"'m": "am", "m": "am", "'re": "are", "re": "are", "'ve": "have", "ve": "have", "'ll": "will", "ll": "will"}
_CAUSES = ("help", "let", "make")
"""Verbs that a bare infinitive follows: "helps you find it"."""
_SAYS = ("say", "mention", "think", "know", "hope", "guess", "note")
"""Verbs that a whole clause follows: in "said you like tea" the parser takes "like" for a preposition."""
_LIKE_THEIR_PAST = ("put", "set", "cut", "let", "hit", "quit", "cost", "hurt", "shut", "split", "read", "beat", "bet")
_PAST = re.compile(r"\b(?:in (?:1\d|20)\d\d|ago|yesterday|last (?:night|week|month|year|\w+day))\b", re.IGNORECASE)

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


@dataclass(frozen=True, slots=True)
class _Voice:
    """One speaker's view: what they are called, and whom "you" means, `None` where there are several others."""

    name: str
    user: bool
    other: str | None
    others: tuple[str, ...]

    def of(self, person: str) -> str | None:
        return {"I": self.name, "you": self.other, "we": _GROUP}[person]


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


def _voice(label: str, names: Mapping[str, str]) -> _Voice:
    """User and assistant say "you" to each other, of two speakers each to the other."""
    name = names[label]
    others = tuple(dict.fromkeys(other for other in names.values() if other and other not in (name, *_SILENT)))
    if name != THE_ASSISTANT and (is_user(label) or name in _SILENT or THE_ASSISTANT in others):
        return _Voice(name, is_user(label), THE_ASSISTANT, others)
    if len(others) > 1:
        return _Voice(name, False, None, others)
    return _Voice(name, False, others[0] if others else THE_USER, others)


def _fact(sentence: str, voice: _Voice, asked: str, nlp: Language) -> str | None:
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
        return _joined(asked, voice, _third_person(nlp(said), voice, nlp))
    if request := _request(plain, voice, nlp):
        return _capitalised(request)
    fact = _third_person(doc, voice, nlp)
    if fact == plain:
        return sentence
    return None if _is_tautology(fact, voice.name) else _capitalised(fact)


def _told_in_question(said: str, voice: _Voice, nlp: Language) -> str | None:
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


def _joined(asked: str, voice: _Voice, said: str) -> str:
    return f'Asked "{asked}", {voice.name} said: {said}'


def _leans(doc: Doc) -> bool:
    """Whether it needs the question: no subject of its own or a pronoun, a reason alone, "I do", "I have two"."""
    subjects = [child for root in doc if root.dep_ == "ROOT" for child in root.children if child.dep_ in _ANY_SUBJECT]
    words = [token for token in doc if not token.is_punct]
    if not subjects or not words or subjects[0].lower_ in _LEANING:
        return True
    if words[0].lower_ in _REASONS and words[0].head.dep_ == "ROOT":
        return True
    bare = all(word.pos_ in ("PRON", "AUX", "PART", "INTJ", "ADV") or word.lemma_ in ("do", "have") for word in words)
    return bare or (words[-1].tag_ == "CD" and words[-1].dep_ == "dobj")


def _request(said: str, voice: _Voice, nlp: Language) -> str | None:
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
    if verb is None or any(child.dep_ in _ANY_SUBJECT and child.i < verb.i for child in verb.children):
        return None
    if not polite and (verb.tag_ not in ("VB", "VBP") or verb.dep_ != "ROOT"):
        return None
    asks = "advises" if voice.name == THE_ASSISTANT and not polite else "asks"
    adverb = (match["adverb"] or "").casefold()
    to = "never to " if adverb == "never " else f"{'not ' if match['not'] else ''}to {adverb}"
    wish = _third_person(doc, voice, nlp, start=verb.i)
    return f"{voice.name} {asks} {voice.other or 'the others'} {to}{wish[0].lower()}{wish[1:]}"


def _third_person(doc: Doc, voice: _Voice, nlp: Language, start: int = 0) -> str:
    """The words of `doc` from `start`, with names for the pronouns of first and second person, and verbs that agree."""
    new = _renamed(doc, voice, nlp)
    text = ""
    for token in doc[start:]:
        word = new.get(token.i)
        if word is not None and text and text[-1].isalnum():
            text += " "  # "I'm" is one word, "Nora is" are two
        text += (token.text if word is None else word) + token.whitespace_
    return text


def _renamed(doc: Doc, voice: _Voice, nlp: Language) -> dict[int, str]:
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
        if child.dep_ == "conj" and not any(own.dep_ in _ANY_SUBJECT for own in child.children):
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


def _is_tautology(fact: str, name: str) -> bool:
    return fact.rstrip(".! ") in (f"{name} is {name}", f"{name}'s name is {name}")


def _capitalised(fact: str) -> str:
    return fact[:1].upper() + fact[1:]
