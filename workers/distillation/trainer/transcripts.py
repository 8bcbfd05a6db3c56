"""Transcripts: whether a text is one, who speaks in it, and what each speaker is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.pipeline import Lemmatizer
from spacy.tokens import Doc, Span

from core.retrieval.entries import sentences_of

THE_USER = "the user"
THE_ASSISTANT = "the assistant"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ROLES = {
    **dict.fromkeys(("user", "human", "me", "you"), THE_USER),
    **dict.fromkeys(("assistant", "ai", "bot", "chatbot", "model"), THE_ASSISTANT),
    **{role: f"the {role}" for role in ("system", "developer", "tool", "function")},
}
_NOUNS = _words(
    "agent buyer caller candidate clerk client coach customer doctor guest host interviewee interviewer moderator "
    "nurse operator owner patient seller student support teacher tenant therapist"
)
"""Labels that say what a speaker is, not what they are called."""

_NO_SPEAKERS = _words(
    "a answer caution danger date example faq from hint important info note p.s. ps q question re remark section "
    "source step subject summary time tip title to todo warning"
)
_LEAST_TURNS = 3
_LEAST_LABELLED = 0.7
_LEAST_OF_ROLES = 0.3
"""Share of the lines that open a turn; users and assistants, who are not mistaken, write longer messages."""
_MOST_LABEL_WORDS = 3

_TURN = re.compile(
    r"\s*(?:[\[(]?\d{1,2}[:.]\d\d(?:[:.]\d\d)?[\])]?\s*[-–]?\s*)?"  # a time of day may stand before the label
    r"(?:\*\*|__)?(?P<label>[^\W\d_][\w .'’-]{0,30}?)(?:\*\*|__)?\s*:(?:\*\*|__)?(?!//)(?:\s+(?P<words>.*))?$"
)
_CONTINUED = re.compile(r"\s*(?:[-*+•>|]|\d+[.)]\s|[^\WA-Z\d_])")
_TALK = re.compile(
    r"\?|\b(?:I|me|my|you|your|we|our|us|hi|hello|hey|thanks|thank|yes|no|ok|okay|sure)\b", re.IGNORECASE
)

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

_OPENERS = re.compile(
    r"(?:(?:yes please|no thanks|yes|yeah|yep|no|nope|ok|okay|sure|right|great|good|nice|lovely|perfect|wonderful"
    r"|thanks|thank you|noted|oh|ah|well|wow|alright|understood|got it|of course|hi|hello|hey"
    r"|good (?:morning|afternoon|evening))(?: there)?(?:,|\s*[–—]|\s-)\s+"
    r"|(?:then|so|and|but|well|also)\s+(?=(?:i|you|we|my|your|our|please)\b))+",
    re.IGNORECASE,
)
_CLOSERS = re.compile(r", (?:many |ok |okay )?(?:thanks|thank you|cheers)(?: \w+)?(?=[.!]*$)", re.IGNORECASE)
_COURTESIES = re.compile(
    r"\b(?:let me know|feel free|if you need|need anything|anything else|(?:keep|bear) (?:that|this|it) in mind"
    r"|makes? sense|sounds (?:like a plan|good|great)|of course|no problem|my pleasure|take care|got it|no worries"
    r"|have a (?:nice|good|great|lovely|wonderful) \w+|(?:make|made|making) a note|looking forward to it)\b",
    re.IGNORECASE,
)
_COURTEOUS = _words(
    "a absolutely afternoon again ah all alright am and any anything anytime appreciate are ask at awesome bye "
    "can certainly cheers congratulations cool day dear definitely do doing else evening everyone exactly "
    "excellent fantastic fine for glad good goodbye got great happy hear hello help helpful helping here hey hi "
    "hmm how i if indeed interesting is it know later ll lovely luck m may meet meeting morning much nice no "
    "noted of oh ok okay perfect please pleased pleasure re really remember right s see so soon sorry sure t talk "
    "thank thanks that the then there this to today too understand understood ve very welcome well will wonderful "
    "wow yeah yep yes you your yours"
)


@dataclass(frozen=True, slots=True)
class Introduction:
    """`who` is where the word for the speaker starts ("My", "I"); `sure` is less for the surer forms."""

    name: str
    who: int
    sure: int


def transcript_of(text: str) -> list[tuple[str, str]] | None:
    """`(speaker, words)` of every turn, if nearly every line of `text` opens one or goes on with one; else `None`.

    What stands before the first turn (a heading) is a turn of "".
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found = [_TURN.match(line) for line in lines]
    speakers = _speakers([(match["label"].casefold(), match["words"] or "") for match in found if match])
    turns: list[tuple[str, list[str]]] = []
    for line, match in zip(lines, found, strict=True):
        if match and match["label"].casefold() in speakers:
            turns.append((match["label"], [match["words"] or ""]))
        elif turns:
            turns[-1][1].append(line)
        else:
            turns.append(("", [line]))
    spoken = [(label, "\n".join(words).strip()) for label, words in turns if label]
    openers = [line for line in lines if not _CONTINUED.match(line)]
    if len(spoken) < _LEAST_TURNS or len({label.casefold() for label, _ in spoken}) < 2:
        return None
    least = _LEAST_OF_ROLES if speakers <= _ROLES.keys() else _LEAST_LABELLED
    if len(spoken) < least * len(openers) or not _is_talk([words for _, words in spoken]):
        return None
    return [*((label, "\n".join(words)) for label, words in turns[:1] if not label), *spoken]


def names_of(turns: Sequence[tuple[str, str]], title: str, nlp: Language) -> dict[str, str]:
    """What each label's speaker is called in a sentence; the user by their own name, if they or the title say it."""
    names = {label: _called(label.strip()) for label, _ in turns}
    if THE_USER in names.values():
        words = [words for label, words in turns if names[label] == THE_USER]
        user = _own_name(words, title, set(names.values()), nlp)
        names = {label: user if name == THE_USER else name for label, name in names.items()}
    return names


def is_user(label: str) -> bool:
    return _ROLES.get(label.strip().casefold()) == THE_USER


def introductions_in(doc: Doc, nlp: Language) -> Iterator[Introduction]:
    """The names that a speaker gives themselves in a sentence."""
    for sure, pattern in enumerate(_INTRODUCTIONS):
        for match in pattern.finditer(doc.text):
            name = _name_at(doc.text, match.end())
            if name and not _in_quotes(doc.text, match.start()) and _is_given(doc, match.end(), name, sure, nlp):
                yield Introduction(name, match.start("who"), sure)


def is_courtesy(said: str, others: Sequence[str]) -> bool:
    """Whether nothing but greeting, thanking and nodding is in it, names of `others` aside."""
    names = {word.casefold() for name in others for word in name.split()}
    words = re.findall(r"[^\W_]+", _COURTESIES.sub(" ", said.replace("’", "'")).casefold())
    return set(words) <= _COURTEOUS | names


def without_vocatives(sentence: str, others: Sequence[str]) -> str:
    """The sentence without the names that it calls one of `others` by."""
    names = [part for name in others for part in (name.removeprefix("the "), name.split()[0]) if part != "the"]
    if not names:
        return sentence
    any_name = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    sentence = re.sub(rf"^(?:(?:hi|hello|hey|dear|thanks|thank you),? )?(?:{any_name}), ", "", sentence, flags=re.I)
    return re.sub(rf", (?:{any_name})(?=[.!?]*$)", "", sentence, flags=re.I)


def without_phatics(sentence: str) -> str:
    """The sentence without the "Yes," or "Then" before it and the "thanks" after it."""
    opener = _OPENERS.match(sentence)
    return _CLOSERS.sub("", sentence[opener.end() :] if opener else sentence)


def is_word(nlp: Language, word: str, *kinds: str) -> bool:
    """Whether the pipeline's dictionary holds the base form `word` as one of `kinds` ("verb", "noun", "adj")."""
    lemmatizer = nlp.get_pipe("lemmatizer")
    assert isinstance(lemmatizer, Lemmatizer)
    index = lemmatizer.lookups.get_table("lemma_index")
    return any(word in index[kind] for kind in kinds)


def _speakers(turns: Sequence[tuple[str, str]]) -> frozenset[str]:
    """The labels that are speakers: of a chat between roles only these; else those that recur, or that talk."""
    seen = Counter(label for label, _ in turns if _may_speak(label))
    roles = frozenset(label for label in seen if label in _ROLES)
    if len(roles) > 1:
        return roles
    recur = {label for label, times in seen.items() if times > 1}
    talk = {label for label, words in turns if label in seen and _TALK.search(words)}
    likely = recur | talk if len(recur) > 1 else set(seen)
    hardly_repeat = 3 * len(likely) > 2 * sum(seen[label] for label in likely)
    return frozenset() if hardly_repeat else frozenset(likely)


def _may_speak(label: str) -> bool:
    words = label.split()
    return len(words) <= _MOST_LABEL_WORDS and words[0] not in _NO_SPEAKERS


def _is_talk(turns: Sequence[str]) -> bool:
    """Records of a list repeat their labels, too, but nobody asks or answers in them."""
    return 4 * sum(_TALK.search(words) is not None for words in turns) >= len(turns)


def _called(label: str) -> str:
    low = label.casefold()
    if role := _ROLES.get(low):
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
