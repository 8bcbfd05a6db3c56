"""Words that are used alike and mean something else: to exchange one for another asks for another thing.

Embeddings hold opposites and siblings for alike ("north" and "south"), so a list has to tell them apart.
"""

from __future__ import annotations

from core.retrieval.lexical import stem

_KINDS = """
north south east west northern southern eastern western
left right top bottom upper lower front back above below inside outside up down high low near far
first second third fourth fifth sixth seventh eighth ninth tenth last next previous final initial
one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand million
black white red green blue yellow orange purple pink brown grey gray violet amber gold golden silver
spring summer autumn fall winter
morning noon afternoon evening night midnight midday dawn dusk today yesterday tomorrow daily weekly monthly yearly
second minute hour day night week weekend month year decade century weekday
mother father sister brother daughter son wife husband aunt uncle cousin nephew niece grandmother grandfather grandson
boy girl man woman child children adult king queen prince princess male female men women boys girls parent
eldest oldest youngest elder older younger old young new ancient modern
open close opening closing closed opened closure shut start end begin finish stop started ended first last
maximum minimum most least more less fewer largest smallest biggest big large small little huge tiny great
longest shortest long short longer shorter wide narrow tall thick thin deep shallow
hot cold warm cool dry wet fast slow early late earlier later heavy light loud quiet soft hard
buy sell bought sold pay paid earn lend borrow give take gave took receive send sent rent own hire
arrive leave depart arrival departure enter exit come go came went
increase decrease rise fall add remove win lose won lost gain loss raise reduce
before after until since during
gram kilogram kilo tonne ton ounce pound litre liter gallon metre meter centimetre millimetre kilometre mile foot feet
inch yard acre hectare watt volt degree percent
pound dollar euro crown cent penny pence franc yen shilling mark
north-east south-west north-west south-east
wood wooden metal iron steel copper brass bronze tin stone brick glass paper plastic leather wool cotton silk linen
dog cat horse cow sheep goat pig bird fish hen duck goose
tea coffee milk water wine beer juice sugar salt butter flour bread cheese meat rice egg
road street bridge river lake sea mountain hill valley island village town city county country region
north true false yes no never always allowed forbidden permitted banned required optional
mayor captain doctor teacher nurse lawyer judge farmer baker miller smith builder architect painter writer poet singer
football tennis cricket rugby hockey chess swimming running cycling
germany france italy spain england scotland ireland wales
love hate like dislike hates loves likes dislikes enjoy
born died birth death alive dead married divorced
public private rich poor full empty clean dirty safe dangerous good bad best worst better worse
import export internal external domestic foreign local national
"""
_OF: dict[str, set[int]] = {}
for _number, _line in enumerate(_KINDS.strip().splitlines()):
    for _word in _line.split():
        _OF.setdefault(stem(_word), set()).add(_number)


def contrast(one: str, other: str) -> bool:
    """Whether the two are different words of one kind."""
    first, second = stem(one), stem(other)
    return first != second and bool(_OF.get(first, set()) & _OF.get(second, set()))
