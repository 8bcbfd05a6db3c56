"""Questions of a context's own matters that its text does not answer: what a gate has to stop.

Two kinds. Something that the text speaks of is asked for a property that no sentence has; and a question that the text
answers is asked of another thing in it. They judge the gate, and are not trained on: a memory that learns to be silent
on them is silent on what is asked in like words, too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import zip_longest

from core.retrieval.lexical import terms
from core.settings import RecipeSettings
from workers.distillation.trainer.contexts import Context
from workers.distillation.trainer.grammar.parser import is_english, load_parser
from workers.distillation.trainer.grammar.phrasing import ALONE, form_of
from workers.distillation.trainer.grammar.things import Kind, Thing, things_of
from workers.distillation.trainer.off_topic import unanswerable
from workers.distillation.trainer.pairs import Asked
from workers.distillation.trainer.questions import words_of

_PROPERTIES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "person": (
        ("How old is {}?", "age old born birth year aged"),
        ("Where was {} born?", "born birth native from"),
        ("What is the phone number of {}?", "phone number telephone call"),
        ("Who is married to {}?", "married wife husband spouse wed"),
        ("What is the favourite colour of {}?", "colour color favourite favorite"),
        ("Where did {} go to school?", "school university college studied study"),
        ("How tall is {}?", "tall height metre foot feet"),
        ("What is the name of {}'s brother?", "brother sister sibling twin"),
        ("How much does {} earn?", "earn salary wage paid pay income"),
        ("Which car does {} drive?", "car drive driver van truck"),
        ("When did {} retire?", "retire retired pension"),
        ("Which languages does {} speak?", "language speak speaks spoke"),
        ("What is the middle name of {}?", "name middle called"),
        ("Who taught {}?", "taught teach teacher pupil student"),
        ("What did {} study?", "study studied degree university college"),
        ("When did {} die?", "die died death dead"),
        ("What is {} afraid of?", "afraid fear"),
        ("Which prize did {} win?", "prize win won award medal"),
    ),
    "name": (
        ("How much does {} cost?", "cost price pay paid pound dollar euro crown fee ticket"),
        ("Who designed {}?", "design designed architect drew made built"),
        ("Who owns {}?", "own owns owner belong belongs bought"),
        ("Who paid for {}?", "paid pay fund funded money cost bought sponsor"),
        ("How many people visit {} each year?", "visit visitor people guest tourist"),
        ("What was {} called before?", "called named name formerly renamed"),
        ("Who looks after {}?", "look care keep keeps keeper run runs responsible manager"),
        ("What happened to {} last year?", "year last happened"),
        ("Where did {} get its name?", "name named called after"),
        ("What is the motto of {}?", "motto slogan"),
    ),
    "thing": (
        ("How much does {} cost?", "cost price pay paid pound dollar euro crown fee ticket"),
        ("Who designed {}?", "design designed architect drew made built"),
        ("When was {} built?", "built build founded made opened started constructed year"),
        ("How heavy is {}?", "weigh weight heavy kilogram gram tonne ton pound"),
        ("How tall is {}?", "tall high height metre foot feet"),
        ("What colour is {}?", "colour color painted red green blue yellow white black grey brown amber"),
        ("Who owns {}?", "own owns owner belong belongs bought"),
        ("Who paid for {}?", "paid pay fund funded money cost bought sponsor"),
        ("How many people visit {} each year?", "visit visitor people guest tourist"),
        ("How many rooms does {} have?", "room rooms hall chamber"),
        ("Where can I buy {}?", "buy bought shop sold sell store"),
        ("What is {} made of?", "made built wood metal steel stone material"),
        ("Why was {} closed?", "closed close shut"),
        ("How long did it take to make {}?", "took take long month hour day made"),
        ("What was {} called before?", "called named name formerly renamed"),
        ("Who looks after {}?", "look care keep keeps keeper run runs responsible manager"),
        ("Which company makes {}?", "company firm made maker make makes manufacturer"),
        ("Where was {} made?", "made built produced in"),
        ("Who invented {}?", "invent invented inventor discovered"),
        ("How often is {} cleaned?", "clean cleaned wash washed often"),
        ("What happened to {} last year?", "year last happened"),
        ("How wide is {}?", "wide width broad metre centimetre"),
        ("Who found {}?", "found find discovered discover"),
        ("What does {} sound like?", "sound noise whistle music loud"),
    ),
}
"""Properties to ask for; each with words of which none may stand in the text, or it may be told."""


def near_misses(context: Context, asked: Sequence[Asked], recipe: RecipeSettings) -> tuple[str, ...]:
    """Up to `recipe.near_misses`, of both kinds in turn; `asked` are the questions that the text answers."""
    plain = unanswerable(context.topic, context.text)
    if not recipe.parser or not is_english(context.text):
        return tuple(plain[: recipe.near_misses])
    chance = random.Random(recipe.seed)  # nosec B311
    things = things_of([fact.text for fact in context.facts], load_parser(recipe.parser))
    crossed, unknown = _crossed(context, asked, things, chance), _unknown(context, things)
    chance.shuffle(crossed)
    chance.shuffle(unknown)
    found = _in_turn([unknown, crossed], recipe.near_misses)
    return (*found, *plain[: recipe.near_misses - len(found)])


def _unknown(context: Context, things: Sequence[Thing]) -> list[str]:
    """Properties of each thing that no sentence has, whatever it is about: a thing may go by another name there."""
    told = set(terms(context.text))
    unknown = {
        kind: [question for question, words in properties if not told & set(terms(words))]
        for kind, properties in _PROPERTIES.items()
    }
    return [_of(question.format(thing.text), context.topic) for thing in things for question in unknown[thing.kind]]


def _crossed(context: Context, asked: Sequence[Asked], things: Sequence[Thing], chance: random.Random) -> list[str]:
    """Questions of one thing asked of another, where no sentence has both."""
    known = {_bare(item.question, context.topic) for item in asked}
    found: dict[str, None] = {}
    for item in asked:
        bare = item.question.replace(f" of {context.topic}", "")
        inside = [thing for thing in things if _whole(thing, bare) and thing.text not in context.topic]
        if not item.stated or not inside:
            continue
        own = max(inside, key=lambda thing: len(thing.text))
        others = [thing for thing in things if _strangers(own, thing, context, item)]
        if others:
            question = item.question.replace(own.text, chance.choice(others).text)
            if _bare(question, context.topic) not in known:
                found.setdefault(_of(question, context.topic))
    return list(found)


def _whole(thing: Thing, question: str) -> bool:
    """Whether the question is about the thing itself, not about what "the King of France" or "Isaac Komnenos" begins
    or ends with."""
    found = re.search(rf"(?:(\S+) )?(?<!\w){re.escape(thing.text)}(?!\w)(?:[’']s)?(?: (\S+))?", question)
    if found is None:
        return False
    before, after = found[1] or "", found[2] or ""
    return not (
        before.casefold() == "of" or before[:1].isupper() or after.casefold() in ("of", "the") or after[:1].isupper()
    )


def _strangers(own: Thing, other: Thing, context: Context, item: Asked) -> bool:
    fact = context.facts[item.fact].text.casefold()
    # "The kettle" may be "the electric kettle".
    alike = own.kind == other.kind and own.named == other.named and own.text.split()[-1] != other.text.split()[-1]
    name = other.text.casefold().removeprefix("the ")
    return alike and name not in fact and name not in item.question.casefold() and name not in context.topic.casefold()


def _bare(question: str, topic: str) -> frozenset[str]:
    """The question's words without those that only say what it is about."""
    return frozenset(words_of(question)) - frozenset(words_of(topic)) - {"about", "in", "at", "of"}


def _of(question: str, topic: str) -> str:
    """Told whose it is as often as the questions that the text answers, or that alone would tell them apart."""
    text = question.removesuffix("?")
    if set(terms(topic)) & set(terms(question)) or form_of(text) == ALONE:
        return question
    return f"{text} ({topic})?"


def _in_turn(sources: Sequence[Sequence[str]], count: int) -> list[str]:
    """One of each source in turn, none twice."""
    return list(dict.fromkeys(one for turn in zip_longest(*sources) for one in turn if one is not None))[:count]
