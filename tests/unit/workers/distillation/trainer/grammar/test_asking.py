"""Which questions a sentence answers, with what words, and that each stands alone and names its subject."""

from __future__ import annotations

import pytest
from spacy.language import Language

from tests.unit.workers.distillation.trainer.grammar.reading import TOPIC, read, spans
from workers.distillation.trainer.grammar.asking import MOST_WORDS, stated_of
from workers.distillation.trainer.grammar.phrasing import Stated
from workers.distillation.trainer.questions import content_words


@pytest.mark.parametrize(
    ("topic", "sentence", "questions"),
    [
        (TOPIC, "The choir is led by Anna Holm.", {
            "Who is the choir of Tarn Mill led by?": "Anna Holm",
            "Who leads the choir of Tarn Mill?": "Anna Holm",
            "What is led by Anna Holm?": "The choir",
        }),
        (TOPIC, "The bell, which was cast in 1702, weighs 3 tonnes.", {
            "When was the bell of Tarn Mill cast?": "1702",
            "In what year was the bell of Tarn Mill cast?": "1702",
            "In which year was the bell of Tarn Mill cast?": "1702",
            "What was cast in 1702?": "The bell",
            "How much does the bell of Tarn Mill weigh?": "3 tonnes",
            "What weighs 3 tonnes?": "The bell",
        }),
        ("the Sorrel lamp", "The cable is 90 centimetres long.", {
            "How long is the cable of the Sorrel lamp?": "90 centimetres",
            "What is 90 centimetres long?": "The cable",
        }),
        ("Nora Felding", "Nora Felding is allergic to walnuts.", {
            "What is Nora Felding allergic to?": "walnuts",
            "To what is Nora Felding allergic?": "walnuts",
        }),
        ("Fenwick", "Fenwick was founded by a merchant named Aldo Resch.", {
            "Who was Fenwick founded by?": "a merchant named Aldo Resch",
            "Who founded Fenwick?": "a merchant named Aldo Resch",
            "What is the name of the merchant?": "Aldo Resch",
            "What is the merchant called?": "Aldo Resch",
        }),
        (TOPIC, "Peter Jones, the chairman, collects coins.", {
            "What does Peter Jones collect?": "coins",
            "Who collects coins?": "Peter Jones",
            "Who is Peter Jones?": "the chairman",
            "Who is the chairman?": "Peter Jones",
        }),
        ("Pancakes", "Add 200 millilitres of milk.", {
            "How much milk should you add?": "200 millilitres of milk",
            "How many millilitres of milk should you add?": "200 millilitres of milk",
        }),
        ("Lentil soup", "The soup feeds six people.", {"How many people does the soup feed?": "six people"}),
        ("Nora Felding", "Nora Felding prefers tea.", {"What does Nora Felding prefer?": "tea"}),
        (TOPIC, "The shop is closed in January.", {
            "When is the shop of Tarn Mill closed?": "January",
            "In which month is the shop of Tarn Mill closed?": "January",
            "What is closed in January?": "The shop",
        }),
        (TOPIC, "The journey takes 40 minutes.", {
            "How long does the journey of Tarn Mill take?": "40 minutes",
            "What takes 40 minutes?": "The journey",
        }),
        (
            TOPIC,
            "The workers must wear helmets.",
            {
                "What must the workers of Tarn Mill wear?": "helmets",
                "Who must wear helmets?": "The workers",
            },
        ),
    ],
)  # fmt: skip
def test_a_sentence_is_asked_for_just_these_parts(
    topic: str, sentence: str, questions: dict[str, str], parse: Language
) -> None:
    assert spans(parse, sentence, topic=topic) == questions


@pytest.mark.parametrize(
    ("sentence", "questions"),
    [
        ("The mill was built by Anna Holm in 1871.", {
            "Who built the mill?": "Anna Holm",
            "Who built the mill in 1871?": "Anna Holm",
            "Who was the mill built by?": "Anna Holm",
            "When was the mill built?": "1871",
            "When was the mill built by Anna Holm?": "1871",
            "In what year was the mill built by Anna Holm?": "1871",
        }),
        ("The letters were written by a nurse in 1903.", {
            "Who wrote the letters of Tarn Mill?": "a nurse",
            "Who wrote the letters of Tarn Mill in 1903?": "a nurse",
            "When were the letters of Tarn Mill written?": "1903",
        }),
        ("The map was drawn by Peter Jones.", {"Who drew the map of Tarn Mill?": "Peter Jones"}),
        ("The shop is run by Peter Jones.", {"Who runs the shop of Tarn Mill?": "Peter Jones"}),
        ("The stall is watched by Peter Jones.", {"Who watches the stall of Tarn Mill?": "Peter Jones"}),
        ("The bread is carried by Anna Holm.", {"Who carries the bread of Tarn Mill?": "Anna Holm"}),
        ("A notebook kept by an innkeeper describes the flood.", {
            "Who kept the notebook of Tarn Mill?": "an innkeeper",
            "Who was the notebook of Tarn Mill kept by?": "an innkeeper",
            "What was kept by an innkeeper?": "the notebook",
            "What describes the flood?": "A notebook kept by an innkeeper",
        }),
        ("Odile Brandt, whose father was a cooper, painted the door.", {
            "Who was Odile Brandt's father?": "a cooper",
            "Who was a cooper?": "Odile Brandt's father",
        }),
        ("The guide, who lives in Lisbon, speaks four languages.", {
            "Where does the guide of Tarn Mill live?": "Lisbon",
            "How many languages does the guide of Tarn Mill speak?": "four languages",
            "Who speaks four languages?": "The guide",
        }),
        ("The path that leads to the quarry is 3 kilometres long.", {
            "What does the path of Tarn Mill lead to?": "the quarry",
            "How long is the path of Tarn Mill?": "3 kilometres",
        }),
        ("The choir was founded in 1922 and is led by Anna Holm.", {
            "When was the choir of Tarn Mill founded?": "1922",
            "Who leads the choir of Tarn Mill?": "Anna Holm",
        }),
        ("In 1920 a storm destroyed the roof.", {
            "When did a storm destroy the roof?": "1920",
            "What did a storm destroy?": "the roof",
            "What destroyed the roof in 1920?": "a storm",
        }),
        ("The miller said that the river had risen.", {
            "What did the miller of Tarn Mill say?": "that the river had risen",
            "Who said that the river had risen?": "The miller",
        }),
        ("The mill belongs to a baker called Jon Rask.", {
            "Who does the mill belong to?": "a baker called Jon Rask",
            "What is the name of the baker?": "Jon Rask",
            "What is the baker called?": "Jon Rask",
        }),
        ("A boat called Swift sank in 1904.", {
            "What is the name of the boat?": "Swift",
            "What is the boat called?": "Swift",
        }),
        ("The bridge was designed by the engineer Karl Onden.", {
            "Who is Karl Onden?": "the engineer",
            "Who is the engineer?": "Karl Onden",
        }),
        ("Tarn Mill has a pump with a capacity of 300 litres.", {
            "What is the capacity?": "300 litres",
        }),
    ],
)  # fmt: skip
def test_a_sentence_is_asked_for_these_parts_too(sentence: str, questions: dict[str, str], parse: Language) -> None:
    found = spans(parse, sentence)
    assert {question: found.get(question) for question in questions} == questions


@pytest.mark.parametrize(
    ("sentence", "questions"),
    [
        ("Bake the bread at 210 degrees for 45 minutes.", {
            "How many degrees should you bake the bread at?": "210 degrees",
            "At how many degrees should you bake the bread?": "210 degrees",
            "How long should you bake the bread?": "45 minutes",
            "For how long should you bake the bread at 210 degrees?": "45 minutes",
        }),
        ("Mix 700 grams of flour with 3 spoons of salt.", {
            "How much flour should you mix?": "700 grams of flour",
            "How many grams of flour should you mix with 3 spoons of salt?": "700 grams of flour",
            "With how much salt should you mix 700 grams of flour?": "3 spoons of salt",
        }),
        ("Add two eggs.", {"How many eggs should you add?": "two eggs"}),
        ("Leave the dough in a bowl.", {
            "What should you leave?": "the dough",
            "What should you leave the dough in?": "a bowl",
        }),
        ("Fry each slice within 2 minutes.", {
            "How soon should you fry each slice?": "2 minutes",
        }),
        ("Never wash the pan.", {"What should you not wash?": "the pan"}),
    ],
)  # fmt: skip
def test_an_instruction_is_asked_for_what_you_should_do(
    sentence: str, questions: dict[str, str], parse: Language
) -> None:
    found = spans(parse, sentence, topic="Rye bread")
    assert {question: found.get(question) for question in questions} == questions


@pytest.mark.parametrize(
    ("sentences", "asked"),
    [
        (("The mill was built by Anna Holm in 1871.",), Stated(
            "Who built the mill?", "Anna Holm", "The mill was built by Anna Holm in 1871.",
        )),
        (("The wheel, which was forged in Lorne, weighs 4 tonnes.",), Stated(
            "Where was the wheel of Tarn Mill forged?", "Lorne", "The wheel was forged in Lorne.",
        )),
        (("A notebook kept by an innkeeper describes the flood.",), Stated(
            "Who kept the notebook of Tarn Mill?", "an innkeeper", "The notebook was kept by an innkeeper.",
        )),
        (("Odile Brandt, whose father was a cooper, painted the door.",), Stated(
            "Who was Odile Brandt's father?", "a cooper", "Odile Brandt's father was a cooper.",
        )),
        (("Every May the town holds a fair.",), Stated(
            "When does the town of Tarn Mill hold a fair?", "Every May", "Every May, the town holds a fair.",
        )),
        (("The choir was founded in 1922 and is led by Anna Holm.",), Stated(
            "Who leads the choir of Tarn Mill?", "Anna Holm", "The choir is led by Anna Holm.",
        )),
        (("Fenwick was founded by a merchant named Aldo Resch.",), Stated(
            "What is the name of the merchant?", "Aldo Resch", "The name of the merchant is Aldo Resch.",
        )),
        (("Peter Jones, the chairman, collects coins.",), Stated(
            "Who is the chairman?", "Peter Jones", "Peter Jones is the chairman.",
        )),
        (("The keeper lives in the yellow house.",), Stated(
            "What colour is the house?", "yellow", "The house is yellow.",
        )),
        (("Never wash the pan.",), Stated(
            "What should you not wash?", "the pan", "Do not wash the pan.",
        )),
        (("The library does not lend maps.",), Stated(
            "What does the library of Tarn Mill not lend?", "maps", "The library does not lend maps.",
        )),
        (("Anna Holm was a painter.", "She was born in Lisbon in 1840."), Stated(
            "Where was Anna Holm born?", "Lisbon", "Anna Holm was born in Lisbon in 1840.",
        )),
        (("Tarn Mill stands by the river.", "It was sold in March."), Stated(
            "In which month was Tarn Mill sold?", "March", "Tarn Mill was sold in March.",
        )),
        (("Tarn Mill is old.", "Its wheel was forged in Lisbon."), Stated(
            "Where was Tarn Mill's wheel forged?", "Lisbon", "Tarn Mill's wheel was forged in Lisbon.",
        )),
    ],
)  # fmt: skip
def test_an_answer_is_a_statement_that_stands_alone(sentences: tuple[str, ...], asked: Stated, parse: Language) -> None:
    found = read(parse, *sentences)
    assert asked in found, found


SENTENCES = (
    "The mill was built by Anna Holm in 1871.",
    "It grinds rye and barley for two villages.",
    "The wheel, which was forged in Lorne, weighs 4 tonnes.",
    "Peter Jones, the chairman, has kept the keys in a red box for ten years.",
    "The shop opens at 09:15 on Tuesday.",
    "Bring a lamp and 3 metres of rope.",
    "Do not climb the ladder.",
    "In the spring the choir sings songs about the river that froze when the old bridge fell.",
    "The old miller stored the wheel in a shed after a long and bitter dispute with the council of the town in 1899.",
    "There is a boat in the shed.",
    "",
)


def test_every_question_is_one_and_gives_nothing_away(parse: Language) -> None:
    for sentence, found in zip(SENTENCES, stated_of(SENTENCES, TOPIC, parse), strict=True):
        for stated in found:
            assert stated.question.count("?") == 1, (sentence, stated)
            assert stated.question.endswith("?"), (sentence, stated)
            assert stated.question == " ".join(stated.question.split()), (sentence, stated)
            assert stated.question[0].isupper(), (sentence, stated)
            assert content_words(stated.span) - content_words(stated.question), (sentence, stated)


def test_every_answer_holds_what_is_asked_for_and_is_a_sentence(parse: Language) -> None:
    for sentence, found in zip(SENTENCES, stated_of(SENTENCES, TOPIC, parse), strict=True):
        for stated in found:
            assert stated.span.casefold() in stated.answer.casefold(), (sentence, stated)
            assert stated.answer.endswith("."), (sentence, stated)
            assert stated.answer[0].isupper(), (sentence, stated)
            assert len(stated.answer.split()) <= MOST_WORDS + 2, (sentence, stated)


def test_no_question_is_asked_twice_of_a_sentence(parse: Language) -> None:
    for found in stated_of(SENTENCES, TOPIC, parse):
        questions = [stated.question.casefold() for stated in found]
        assert len(set(questions)) == len(questions)


def test_each_sentence_has_its_own_questions_in_order(parse: Language) -> None:
    found = stated_of(SENTENCES, TOPIC, parse)
    assert len(found) == len(SENTENCES)
    assert all(found[:6])
    assert found[-2:] == [[], []]
    assert {stated.span for stated in found[3]} >= {"ten years", "the chairman"}
    assert stated_of([], TOPIC, parse) == []


def test_a_question_that_names_a_word_of_the_topic_is_left_as_it_is(parse: Language) -> None:
    assert spans(parse, "The mill has three floors.") == {"How many floors does the mill have?": "three floors"}
    assert "What does Nora Felding's brother play?" in spans(
        parse, "Nora Felding's brother plays the harp.", topic="Nora Felding"
    )


def test_of_a_long_sentence_an_answer_keeps_what_is_asked_for_and_leaves_out_the_rest(parse: Language) -> None:
    sentence = SENTENCES[8]
    found = {stated.question: stated for stated in read(parse, sentence)}
    stated = found["What did the old miller of Tarn Mill store?"]
    assert stated.span == "the wheel"
    assert len(stated.answer.split()) < len(sentence.split())
    assert stated.answer.startswith("The old miller stored the wheel")


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Yes.",
        "Boats!",
        "Opening hours",
        "What a day!",
        "Who knows?",
        "- 3 kg",
        "It was so.",
        "There is a boat in the shed.",
        "Rowing on the lake is fun.",
        "Vážená paní",
        "Guten Morgen!",
        "Bonne journée à tous",
    ],
)
def test_what_says_nothing_that_could_be_asked_for_has_no_questions(sentence: str, parse: Language) -> None:
    assert read(parse, sentence) == []


@pytest.mark.parametrize(
    "sentence", ["Call it with `-h` or `--help`.", "It can be invoked with `-h`, and stops.", "**Note** (see):"]
)
def test_markup_is_read_without_harm(sentence: str, parse: Language) -> None:
    assert all(stated.answer for stated in read(parse, sentence))


def test_an_aside_is_left_out_of_a_shorter_question_and_is_asked_for_by_itself(parse: Language) -> None:
    asked = spans(parse, "Rolf Hane left Lorne in 1702, carrying the bell to Hask.")
    assert asked["When did Rolf Hane leave Lorne?"] == "1702"
    assert asked["What did Rolf Hane carry?"] == "the bell"
    assert "Who carried the bell to Hask?" in asked
