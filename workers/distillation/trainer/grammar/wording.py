"""English forms that questions need: auxiliaries brought to the front, base forms, question words."""

from __future__ import annotations

import re

from spacy.tokens import Token

from workers.distillation.trainer.grammar.clauses import Clause, Element
from workers.distillation.trainer.grammar.people import is_human


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PAST = {
    "written": "wrote", "taken": "took", "given": "gave", "known": "knew", "chosen": "chose", "driven": "drove",
    "grown": "grew", "shown": "showed", "drawn": "drew", "worn": "wore", "eaten": "ate", "broken": "broke",
    "spoken": "spoke", "stolen": "stole", "hidden": "hid", "begun": "began", "sung": "sang", "run": "ran",
    "done": "did", "seen": "saw", "sewn": "sewed", "woven": "wove", "thrown": "threw", "flown": "flew",
}  # fmt: skip
"""Past forms of participles that differ from them."""
_IRREGULAR_WORDS = (
    "be:was become:became begin:began bend:bent bind:bound bite:bit blow:blew break:broke bring:brought build:built "
    "burn:burnt buy:bought catch:caught choose:chose come:came cost:cost cut:cut deal:dealt dig:dug do:did draw:drew "
    "drink:drank drive:drove eat:ate fall:fell feed:fed feel:felt fight:fought find:found flee:fled fly:flew "
    "forbid:forbade forget:forgot freeze:froze get:got give:gave go:went grow:grew hang:hung have:had hear:heard "
    "hide:hid hit:hit hold:held hurt:hurt keep:kept know:knew lay:laid lead:led leave:left lend:lent let:let lie:lay "
    "lose:lost make:made mean:meant meet:met pay:paid put:put read:read ride:rode ring:rang rise:rose run:ran say:said "
    "see:saw seek:sought sell:sold send:sent set:set shake:shook shine:shone shoot:shot show:showed shut:shut "
    "sing:sang sink:sank sit:sat sleep:slept speak:spoke spend:spent split:split spread:spread stand:stood steal:stole "
    "stick:stuck strike:struck sweep:swept swim:swam take:took teach:taught tear:tore tell:told think:thought "
    "throw:threw understand:understood wear:wore weave:wove win:won wind:wound write:wrote"
)
_IRREGULAR = dict(pair.split(":") for pair in _IRREGULAR_WORDS.split())
COLOURS = _words(
    "black white red green blue yellow orange purple pink brown grey gray violet amber turquoise golden gold "
    "silver crimson scarlet beige"
)

_YEAR = re.compile(r"^(?:the year )?(?:1\d|20)\d\d$")
_CLOCK = re.compile(
    r"\b\d{1,2}:\d\d\b|\b\d{1,2}(?:\.\d\d)? ?[ap]\.?m\b|\b(?:at|by|until|till|from|after|before) \d{1,2}\.\d\d$"
    r"|\b(?:noon|midnight|o'clock)\b"
)
_MONEY = re.compile(r"[£$€]|\b(?:pounds?|dollars?|euros?|crowns?|cents?|pence|francs?|yen|shillings?|marks?)\b")
_UNITS = _words(
    "gram kilogram kilo tonne ton ounce pound litre liter millilitre gallon cup spoon spoonful teaspoon "
    "tablespoon glass metre meter centimetre millimetre kilometre mile foot inch yard hectare acre"
)
_SPAN = _words("second minute hour day night week month year decade century")
_DAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
_MONTHS = _words("january february march april may june july august september october november december")
_MODALS = ("must", "can", "may", "will", "should", "shall", "could", "would", "might")


def fronted(clause: Clause) -> tuple[str, str]:
    """What stands before the subject in a question, and what is left of the verb group after it.

    "was founded" is "was", "founded"; "serves" is "does", "serve"; an imperative asks what you "should".
    """
    not_ = " not" if clause.negated else ""
    verb = clause.verb
    if clause.subject is None:
        return "should", f"{not_} {verb.lemma_}".strip()
    if clause.passive_participle:
        return ("were" if _plural(clause.subject_head) else "was"), f"{not_} {verb.text}".strip()
    if clause.beside is not None:
        do = {"VBD": "did", "VBP": "do"}.get(clause.beside.tag_, "does")
        return do, f"{not_} {_base(verb)}".strip()
    first = clause.verbs[0]
    if first.lemma_ == "be" or len(clause.verbs) > 1:
        rest = " ".join(token.text for token in clause.verbs[1:])
        return _whole(first), f"{not_} {rest}".strip()
    do = {"VBD": "did", "VBP": "do"}.get(verb.tag_, "does")
    return do, f"{not_} {verb.lemma_}".strip()


def verb_group(clause: Clause) -> str:
    """The verbs as a statement has them, "was not founded"."""
    if clause.passive_participle:
        return f"{'were' if _plural(clause.subject_head) else 'was'} {clause.verb.text}"
    if clause.beside is not None:
        return _finite(_base(clause.verb), clause.beside.tag_)
    if not clause.negated:
        return " ".join(_whole(token) for token in clause.verbs)
    first, *rest = (_whole(token) for token in clause.verbs)
    return (
        " ".join([first, "not", *rest]) if rest or clause.copula else f"{fronted(clause)[0]} not {clause.verb.lemma_}"
    )


def active_past(clause: Clause) -> str | None:
    """The active form of a passive verb, "founded" of "was founded", "runs" of "is run"."""
    verb, first = clause.verb, clause.verbs[0]
    if clause.passive_participle or first.lower_ in ("was", "were"):
        return _PAST.get(verb.lower_, verb.text)
    return _finite(verb.lemma_, "VBZ") if first.lower_ in ("is", "are") else None


def _finite(lemma: str, tag: str) -> str:
    """A verb's past (`VBD`), its plural (`VBP`) or its third person."""
    if tag == "VBP":
        return lemma
    if tag == "VBD":
        if lemma in _IRREGULAR:
            return _IRREGULAR[lemma]
        if lemma.endswith("e"):
            return f"{lemma}d"
        return f"{lemma[:-1]}ied" if lemma.endswith("y") and lemma[-2:-1] not in "aeiou" else f"{_doubled(lemma)}ed"
    if lemma.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{lemma}es"
    return f"{lemma[:-1]}ies" if lemma.endswith("y") and lemma[-2:-1] not in "aeiou" else f"{lemma}s"


def _base(verb: Token) -> str:
    """Its lemma, where the pipeline does not take "riding" for a form of "rid"."""
    lemma = verb.lemma_
    return f"{lemma}e" if verb.lower_ == f"{lemma}ing" and _doubled(lemma) != lemma else lemma


def _doubled(lemma: str) -> str:
    """ "stop" as in "stopped"."""
    short = len(lemma) < 5 and re.search(r"[^aeiou][aeiou][bdgklmnprt]$", lemma) is not None
    return f"{lemma}{lemma[-1]}" if short and not lemma.endswith(("en", "er")) else lemma


def asking_words(element: Element) -> list[str]:
    """Question words for a noun phrase that is an object, a complement or a preposition's noun; the best first."""
    head, text = element.head, element.text.removeprefix(element.preposition).strip()
    number = next((child for child in head.children if child.dep_ == "nummod"), None)
    if (
        _MONEY.search(text)
        and any(char.isdigit() for char in text)
        and not any(c.dep_ == "prep" for c in head.children)
    ):
        return ["How much money", "How much"]
    measured = next((c for c in head.children if c.dep_ == "prep" and c.lower_ == "of"), None)
    if number is not None and head.pos_ == "NOUN" and measured is not None and head.lemma_.casefold() in _UNITS:
        of = " ".join(token.text for token in measured.subtree)
        return [f"How much {of.removeprefix('of ')}", f"How many {head.text} {of}"]
    if head.text == "%":
        return ["What percentage", "How much"]
    if number is not None and head.pos_ == "NOUN":
        noun = head.text if head.tag_ == "NNS" else f"{head.text}s"
        following = text.partition(head.text)[2]
        return [f"How many {noun}{following if following.startswith(' of ') else ''}", f"How many {noun}"]
    if is_human(head) and element.preposition.casefold() != "as":
        return ["Who"]
    described = any(child.dep_ in ("compound", "amod") for child in head.children)
    if head.pos_ == "NOUN" and described:
        return [f"Which {head.text}", "What", f"What kind of {head.text}"]
    if head.pos_ == "PROPN" and head.ent_type_ in ("DATE", "TIME"):
        return ["When"]
    return ["What"]


def time_words(element: Element) -> list[str]:
    """Question words of a phrase of time, such as "in 1683" or "for 25 minutes"; none where it is none."""
    head, text = element.head, element.text
    bare = text.removeprefix(element.preposition).strip().casefold()
    if element.preposition.casefold() in ("by", "of", "with", "since"):
        return []
    if _YEAR.match(bare):
        return ["When", "In what year", "In which year"]
    if element.role == "adverb" and counted_span(head) and bare.startswith("every"):
        return ["How often"]
    counted = head.lemma_.casefold() in _SPAN and any(c.dep_ in ("nummod", "det", "quantmod") for c in head.children)
    if counted and element.preposition.casefold() in ("for", ""):
        return ["How long", "For how long"]
    if counted and element.preposition.casefold() in ("within", "in"):
        return ["How soon", "Within what time"]
    if _CLOCK.search(text.casefold()) and not _MONEY.search(text):
        return ["At what time", "When"]
    words = set(re.findall(r"[a-z]+", bare))
    if words & _DAYS:
        return ["On what day", "When", "On which day"]
    if words & _MONTHS:
        return ["When", "In which month"] if not re.search(r"\d", bare) else ["When", "On what date"]
    return ["When"] if head.ent_type_ in ("DATE", "TIME") else []


def counted_span(head: Token) -> bool:
    return head.lemma_.casefold() in _SPAN


def is_place(element: Element) -> bool:
    named = element.head.ent_type_ in ("GPE", "LOC", "FAC")
    return named and element.preposition.casefold() in ("in", "at", "on", "near", "to", "from", "outside", "into")


def _plural(head: Token | None) -> bool:
    return head is not None and (head.tag_ in ("NNS", "NNPS") or any(c.dep_ == "conj" for c in head.children))


def _whole(token: Token) -> str:
    return {"'m": "is", "'re": "are", "'s": "is", "'ve": "have", "'ll": "will", "'d": "would", "ca": "can"}.get(
        token.text, token.text
    )
