"""What a sentence says, clause by clause: who does what, with its complements, so that each can be asked for.

A clause stands alone: pronouns are resolved as far as simple rules go, relative clauses get their noun as subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from spacy.tokens import Doc, Token

from workers.distillation.trainer.grammar.people import is_human

Role = Literal["object", "complement", "preposition", "adverb", "clause"]

_ROLES: dict[str, Role] = {
    "dobj": "object",
    "obj": "object",
    "attr": "complement",
    "acomp": "complement",
    "oprd": "complement",
    "prep": "preposition",
    "agent": "preposition",
    "dative": "preposition",
    "advmod": "adverb",
    "npadvmod": "adverb",
    "prt": "adverb",
    "xcomp": "clause",
    "ccomp": "clause",
    "advcl": "clause",
}
_SUBJECTS = ("nsubj", "nsubjpass", "expl", "csubj")
_FINITE = ("VBZ", "VBD", "VBP", "MD")
_HEADS = ("ROOT", "conj", "relcl", "parataxis")
_ASSERTING = (
    "say",
    "show",
    "report",
    "confirm",
    "find",
    "note",
    "state",
    "announce",
    "reveal",
    "explain",
    "know",
    "record",
)
"""Verbs whose "that" clause is told as true; what is denied, hoped or doubted is not."""
_GIVEN_MARKS = ("because", "although", "though", "while", "whereas", "since", "as")
"""What begins a clause that is told as true beside the main one; "if" and "unless" do not."""
_UNDERMINING = ("neither", "nor", "hardly", "scarcely", "barely", "seldom", "rarely")
"""Words that turn a clause into its opposite without being its verb's "not"."""
_CONNECTING = ("so", "then", "also", "however", "therefore", "thus", "hence", "furthermore", "moreover", "instead")
"""Adverbs that only lead from one sentence to the next."""
_PHRASES = ("order", "addition", "fact", "general", "particular", "example", "contrast", "turn", "result")
"""Nouns of "in order to", "for example" and their like, which are no answers."""
_THIRD = {"he": "person", "she": "person", "him": "person", "it": "thing", "they": "many", "them": "many"}
_POSSESSIVE = {"his": "person", "her": "person", "its": "thing", "their": "many"}
_KINDS = _THIRD | _POSSESSIVE
MOST_SUBJECT_WORDS = 9
"""A longer subject is mostly a clause that the parser has taken for one."""


@dataclass(frozen=True, slots=True)
class Element:
    """A complement or adjunct: its role, its words, its head token (of a preposition the noun), its place."""

    role: Role
    text: str
    head: Token
    at: int
    preposition: str = ""
    before: bool = False
    """Whether it stands before the subject."""


@dataclass(frozen=True, slots=True)
class Clause:
    """`subject` is text that stands alone, `None` of an imperative. `verbs` are auxiliaries and the verb, in order."""

    subject: str | None
    subject_head: Token | None
    verbs: tuple[Token, ...]
    negated: bool
    elements: tuple[Element, ...]
    passive_participle: bool = False
    """Whether it was a bare participle ("a notebook kept by …"), so that its auxiliary is ours."""
    beside: Token | None = None
    """Of a clause without a finite verb ("…, riding to Hask") the verb beside which it stands."""

    @property
    def verb(self) -> Token:
        return self.verbs[-1]

    @property
    def passive(self) -> bool:
        return self.passive_participle or any(verb.dep_ == "auxpass" for verb in self.verbs)

    @property
    def copula(self) -> bool:
        return self.verb.lemma_ == "be"


class Mentions:
    """What pronouns stand for: the latest subject of this sentence or the one before, else the topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._before: dict[str, str] = {}
        self._now: dict[str, str] = {}
        self._person = ""
        """Who was named last in the sentence before, and was not its subject."""

    def of(self, pronoun: str) -> str:
        kind = _KINDS[pronoun.casefold()]
        other = self._person if kind == "person" else ""
        return self._now.get(kind) or self._before.get(kind) or other or self.topic

    def notice(self, text: str, head: Token) -> None:
        if head.pos_ == "PRON":
            # It is still what is spoken of.
            if head.lower_ in _KINDS:
                self._now[_KINDS[head.lower_]] = text
        elif head.tag_ in ("NNS", "NNPS"):
            self._now["many"] = text
        elif is_human(head):
            self._now["person"] = text
        else:
            self._now["thing"] = text

    def next_sentence(self) -> None:
        self._before, self._now = self._now, {}

    def end_sentence(self, sentence: Doc) -> None:
        named = [entity for entity in sentence.ents if entity.label_ == "PERSON"]
        self._person = named[-1].text.removesuffix("'s").removesuffix("’s") if named else ""


def clauses_of(sentence: Doc, mentions: Mentions) -> list[Clause]:
    """The clauses of a parsed sentence, in order; `mentions` is carried from sentence to sentence."""
    found = []
    mentions.next_sentence()
    for head in sentence:
        if head.pos_ not in ("VERB", "AUX"):
            continue
        clause = _read(head, mentions)
        if clause is None or len((clause.subject or "").split()) > MOST_SUBJECT_WORDS:
            continue
        found.append(clause)
    mentions.end_sentence(sentence)
    return found


def _read(head: Token, mentions: Mentions) -> Clause | None:
    if head.dep_ == "acl":
        return _participle(head, mentions)
    if head.dep_ == "advcl" and head.tag_ == "VBG":
        return _beside(head, mentions)
    return _clause(head, mentions)


def phrase(head: Token, mentions: Mentions, *, without: Sequence[Token] = ()) -> str:
    """The words of a noun phrase, standing alone: without relative clauses, pronouns resolved."""
    left_out = {t for child in _clausal(head) for t in child.subtree} | {t for w in without for t in w.subtree}
    tokens = [token for token in head.subtree if token not in left_out]
    while tokens and tokens[-1].pos_ in ("PUNCT", "CCONJ") and tokens[-1].text not in (")", "%", '"'):
        tokens.pop()
    while tokens and tokens[0].pos_ in ("PUNCT", "CCONJ") and tokens[0].text not in ("(", '"'):
        tokens.pop(0)
    if len(tokens) == 1 and tokens[0].lower_ in _THIRD and tokens[0].dep_ in _SUBJECTS:
        return mentions.of(tokens[0].text)
    if tokens and tokens[0].text.casefold() in _POSSESSIVE and tokens[0].dep_ == "poss":
        return f"{_possessive(mentions.of(tokens[0].text))} {_joined(tokens[1:])}".strip()
    return _joined(tokens)


def _possessive(owner: str) -> str:
    return f"{owner}'" if owner.endswith("s") else f"{owner}'s"


def _clausal(head: Token) -> Iterator[Token]:
    for token in head.subtree:
        # "Edgar's sister Margaret" is one name, "Edgar's sister, Margaret" two.
        aside = token.left_edge.i > 0 and token.doc[token.left_edge.i - 1].is_punct
        if token != head and (
            token.dep_ in ("relcl", "advcl", "parataxis") or (token.dep_ in ("appos", "acl") and aside)
        ):
            yield token


def _is_told(head: Token) -> bool:
    """Whether the text holds the clause for true as its words stand."""
    near = (token for token in head.subtree if token in (head, token.head) or head in (token.head, token.head.head))
    if any(_undermines(token) for token in near):
        return False
    if head.dep_ == "ccomp":
        return head.head.lemma_ in _ASSERTING and not _negated(head.head) and _is_told(head.head)
    if head.dep_ == "advcl":
        return any(child.dep_ == "mark" and child.lower_ in _GIVEN_MARKS for child in head.children)
    return head.dep_ in _HEADS


def _undermines(token: Token) -> bool:
    no_longer = token.lower_ == "longer" and any(child.lower_ == "no" for child in token.children)
    return no_longer or token.lower_ in _UNDERMINING


def _clause(head: Token, mentions: Mentions) -> Clause | None:
    if not _is_told(head):
        return None
    lead = _lead(head)
    auxiliaries = [child for child in head.children if child.dep_ in ("aux", "auxpass")]
    if not auxiliaries and head.tag_ in ("VBN", "VB", "VBG") and lead != head:
        auxiliaries = [child for child in lead.children if child.dep_ in ("aux", "auxpass")]
    verbs = (*auxiliaries, head)
    found = _subject(head, mentions) or (_subject(lead, mentions) if lead != head else None)
    if found is None:
        if head.tag_ not in ("VB", "VBP") or auxiliaries or head.dep_ not in ("ROOT", "conj"):
            return None
        return Clause(None, None, verbs, _negated(head), _elements(head, mentions))
    if verbs[0].tag_ not in _FINITE:
        return None
    text, subject = found
    if head.dep_ in ("ROOT", "conj"):
        # "their" of what follows is already its.
        mentions.notice(text, subject)
    return Clause(text, subject, verbs, _negated(head), _elements(head, mentions))


def _participle(head: Token, mentions: Mentions) -> Clause | None:
    """ "a notebook kept by an innkeeper": what was done to the noun."""
    undermined = any(_undermines(token) for token in (*head.lefts, *head.head.lefts))
    if head.tag_ != "VBN" or head.head.pos_ not in ("NOUN", "PROPN") or undermined:
        return None
    elements = _elements(head, mentions)
    if not elements or head.lower_ in ("called", "named"):
        return None
    noun = phrase(head.head, mentions, without=[head])
    first, _, rest = noun.partition(" ")
    definite = f"the {rest}" if first.casefold() in ("a", "an") and rest else noun
    return Clause(definite, head.head, (head,), False, elements, passive_participle=True)


def _beside(head: Token, mentions: Mentions) -> Clause | None:
    """ "…, riding as far as Hask": what the subject of the main clause did besides."""
    main = head.head
    plain = not any(child.dep_ in ("mark", "aux", "auxpass", "prep", *_SUBJECTS) for child in head.lefts)
    if not plain or main.pos_ != "VERB" or main.tag_ not in _FINITE or not _is_told(main) or _negated(main):
        return None
    elements, found = _elements(head, mentions), _subject(main, mentions)
    if not elements or found is None:
        return None
    return Clause(found[0], found[1], (head,), _negated(head), elements, beside=main)


def _lead(head: Token) -> Token:
    """The first verb of a chain of conjuncts, whose subject and auxiliaries the others may share."""
    while head.dep_ == "conj" and head.head.pos_ in ("VERB", "AUX"):
        head = head.head
    return head


def _subject(head: Token, mentions: Mentions) -> tuple[str, Token] | None:
    for child in head.children:
        if child.dep_ not in _SUBJECTS:
            continue
        announcing = child.lower_ == "it" and any(other.dep_ == "ccomp" for other in head.children)
        if child.dep_ in ("expl", "csubj") or announcing:
            return None
        noun = head.head
        if child.tag_ in ("WDT", "WP"):
            if head.dep_ != "relcl" or noun.pos_ not in ("NOUN", "PROPN"):
                return None
            return _antecedent(noun, head, mentions)
        owner = next((t for t in child.children if t.tag_ == "WP$"), None)
        if owner is not None:
            rest = _joined([t for t in child.subtree if t != owner])
            return f"{phrase(noun, mentions, without=[head])}'s {rest}", child
        if child.pos_ in ("NOUN", "PROPN", "PRON", "NUM"):
            return phrase(child, mentions), child
    return None


def _antecedent(noun: Token, relative: Token, mentions: Mentions) -> tuple[str, Token]:
    """What "which" stands for: the noun before it, or, of "X is a club that …", X."""
    subject = next((c for c in noun.head.children if c.dep_ == "nsubj"), None)
    if noun.dep_ == "attr" and noun.head.lemma_ == "be" and subject is not None and subject.pos_ != "PRON":
        return phrase(subject, mentions), subject
    later = [child for child in noun.children if child.i > relative.i or child.dep_ == "relcl"]
    return phrase(noun, mentions, without=later), noun


def _negated(head: Token) -> bool:
    return any(child.dep_ == "neg" for child in head.children)


def _elements(head: Token, mentions: Mentions) -> tuple[Element, ...]:
    found: list[Element] = []
    start = min((c.i for c in head.children if c.dep_ in (*_SUBJECTS, "aux", "auxpass")), default=head.i)
    for child in head.children:
        role = _ROLES.get(child.dep_)
        if role is None or child.tag_ in ("WDT", "WP", "WRB", "WP$"):
            continue
        before = child.i < start
        if role == "preposition" and child.tag_ in ("IN", "TO", "RP"):
            noun = next((c for c in child.children if c.dep_ in ("pobj", "pcomp")), None)
            if noun is None or noun.tag_ in ("WDT", "WP") or noun.lower_ in _PHRASES:
                continue
            # "at 190 degrees for 55 minutes" is two things, however they are attached.
            times = [c for c in noun.children if c.dep_ == "prep" and c.i > noun.i and _is_time(c)]
            for prep, of in ((child, noun), *((time, _object_of(time)) for time in times)):
                inner = phrase(of, mentions, without=times if of == noun else [])
                lead = _joined([t for t in prep.subtree if t.i < of.left_edge.i])
                lead = f"{lead[:1].lower()}{lead[1:]}"
                found.append(Element(role, f"{lead} {inner}", of, prep.i, lead, before))
        elif role == "clause":
            if before and child.dep_ == "ccomp":
                continue
            found.append(Element(role, _clause_text(child), child, child.i, "", before))
        elif role == "adverb" and child.lower_ not in _CONNECTING:
            found.append(Element(role, _joined(list(child.subtree)), child, child.i, "", before))
        elif role != "adverb":
            # "allergic to walnuts" is a state and what it is about.
            about = [
                c for c in child.children if child.dep_ == "acomp" and c.dep_ == "prep" and _noun_of(c) is not None
            ]
            found.append(Element(role, phrase(child, mentions, without=about), child, child.i, "", before))
            for prep in about:
                noun = _object_of(prep)
                found.append(
                    Element("preposition", f"{prep.text} {phrase(noun, mentions)}", noun, prep.i, prep.text, before)
                )
    return tuple(sorted(found, key=lambda element: element.at))


def _noun_of(preposition: Token) -> Token | None:
    return next((c for c in preposition.children if c.dep_ == "pobj"), None)


def _object_of(preposition: Token) -> Token:
    noun = _noun_of(preposition)
    assert noun is not None
    return noun


def _is_time(preposition: Token) -> bool:
    noun = _noun_of(preposition)
    return noun is not None and noun.ent_type_ in ("DATE", "TIME") and preposition.lower_ != "of"


def _clause_text(head: Token) -> str:
    tokens = list(head.subtree)
    while tokens and tokens[-1].pos_ == "PUNCT":
        tokens.pop()
    return _joined(tokens)


def _joined(tokens: Sequence[Token]) -> str:
    """The words with their own spaces; what stood between tokens that do not follow each other becomes one space."""
    tokens = [
        t for at, t in enumerate(tokens) if not (t.is_punct and at and tokens[at - 1].i != t.i - 1 and t.text in ",;:")
    ]
    if not tokens:
        return ""
    text = ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        text += token.text
        if following is not None:
            text += token.whitespace_ if following.i == token.i + 1 else " "
    return " ".join(text.split())
