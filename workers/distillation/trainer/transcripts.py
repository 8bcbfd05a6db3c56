"""Transcripts: whether a text is one, who speaks in it, and what in it is mere courtesy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

THE_USER = "the user"
THE_ASSISTANT = "the assistant"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROLES = {
    **dict.fromkeys(("user", "human", "me", "you"), THE_USER),
    **dict.fromkeys(("assistant", "ai", "bot", "chatbot", "model"), THE_ASSISTANT),
    **{role: f"the {role}" for role in ("system", "developer", "tool", "function")},
}
"""What the speaker of a label that is a role is called."""

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
    least = _LEAST_OF_ROLES if speakers <= ROLES.keys() else _LEAST_LABELLED
    if len(spoken) < least * len(openers) or not _is_talk([words for _, words in spoken]):
        return None
    return [*((label, "\n".join(words)) for label, words in turns[:1] if not label), *spoken]


def is_user(label: str) -> bool:
    return ROLES.get(label.strip().casefold()) == THE_USER


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


def _speakers(turns: Sequence[tuple[str, str]]) -> frozenset[str]:
    """The labels that are speakers: of a chat between roles only these; else those that recur, or that talk."""
    seen = Counter(label for label, _ in turns if _may_speak(label))
    roles = frozenset(label for label in seen if label in ROLES)
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
