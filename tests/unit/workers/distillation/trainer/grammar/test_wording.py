"""Question words and verb forms, as questions show them."""

from __future__ import annotations

import pytest
from spacy.language import Language

from tests.unit.workers.distillation.trainer.grammar.reading import spans


@pytest.mark.parametrize(
    ("sentence", "question", "span"),
    [
        # Years and dates.
        ("The mill was built in 1871.", "When was the mill built?", "1871"),
        ("The mill was built in 1871.", "In which year was the mill built?", "1871"),
        ("The exhibition closes in 2031.", "In what year does the exhibition of Tarn Mill close?", "2031"),
        ("The pond froze on 3 March 1912.", "On what date did the pond of Tarn Mill freeze?", "3 March 1912"),
        ("The shop is closed in January.", "In which month is the shop of Tarn Mill closed?", "January"),
        ("The office opens on Tuesday.", "On what day does the office of Tarn Mill open?", "Tuesday"),
        ("The jetty was rebuilt in the spring.", "When was the jetty of Tarn Mill rebuilt?", "the spring"),
        ("The lamps are lit at dusk.", "When are the lamps of Tarn Mill lit?", "dusk"),
        # Times of day.
        ("The ferry leaves at 06:40.", "At what time does the ferry of Tarn Mill leave?", "06:40"),
        ("The bells ring at noon.", "At what time do the bells of Tarn Mill ring?", "noon"),
        ("The clock stopped at 03:15 on 4 June 1888.", "At what time did the clock of Tarn Mill stop?", "03:15"),
        # Spans of time.
        ("The journey takes 40 minutes.", "How long does the journey of Tarn Mill take?", "40 minutes"),
        ("The battery lasts 12 hours.", "How long does the battery of Tarn Mill last?", "12 hours"),
        ("Press the switch for 5 seconds.", "How long should you press the switch?", "5 seconds"),
        ("The owner must answer within three days.", "How soon must the owner of Tarn Mill answer?", "three days"),
        ("The pond is cleaned every two weeks.", "How often is the pond of Tarn Mill cleaned?", "every two weeks"),
        ("Anna Holm mows the lawn every day.", "How often does Anna Holm mow the lawn?", "every day"),
    ],
)
def test_time_is_asked_for_by_its_kind(sentence: str, question: str, span: str, parse: Language) -> None:
    found = spans(parse, sentence)
    assert found.get(question) == span, found


@pytest.mark.parametrize(
    ("sentence", "question", "span"),
    [
        ("The pump weighs 12 kilograms.", "How much does the pump of Tarn Mill weigh?", "12 kilograms"),
        ("The ferry costs 4 pounds.", "How much does the ferry of Tarn Mill cost?", "4 pounds"),
        ("The repair cost £300.", "How much did the repair of Tarn Mill cost?", "£300"),
        ("The mill was sold for 900 crowns.", "How much was the mill sold for?", "900 crowns"),
        ("The cable is 90 centimetres long.", "How long is the cable of Tarn Mill?", "90 centimetres"),
        ("The tower is 31 metres high.", "How high is the tower of Tarn Mill?", "31 metres"),
        ("The museum employs 12 guides.", "How many guides does the museum of Tarn Mill employ?", "12 guides"),
        ("The mill has 4,300 visitors.", "How many visitors does the mill have?", "4,300 visitors"),
        ("The mill grinds 40 tonnes of rye.", "How much rye does the mill grind?", "40 tonnes of rye"),
        ("The oven must be heated to 180 degrees.", "To how many degrees must the oven of Tarn Mill be heated?",
         "180 degrees"),
    ],
)  # fmt: skip
def test_amounts_are_asked_for_by_what_they_count(sentence: str, question: str, span: str, parse: Language) -> None:
    found = spans(parse, sentence)
    assert found.get(question) == span, found


@pytest.mark.parametrize(
    ("sentence", "question", "span"),
    [
        ("The keeper was born in Lisbon.", "Where was the keeper of Tarn Mill born?", "Lisbon"),
        ("The road leads to Lisbon.", "Where does the road of Tarn Mill lead?", "Lisbon"),
        ("The clerk came from Denmark.", "Where did the clerk of Tarn Mill come from?", "Denmark"),
        ("The wheel was forged in Paris.", "Where was the wheel of Tarn Mill forged?", "Paris"),
        ("The keeper lives in the yellow house.", "Which house does the keeper of Tarn Mill live in?",
         "the yellow house"),
        ("The keeper lives in the yellow house.", "In which house does the keeper of Tarn Mill live?",
         "the yellow house"),
    ],
)  # fmt: skip
def test_places_are_asked_for_with_where_or_by_their_kind(
    sentence: str, question: str, span: str, parse: Language
) -> None:
    found = spans(parse, sentence)
    assert found.get(question) == span, found


@pytest.mark.parametrize(
    ("sentence", "question", "colour"),
    [
        ("The mill has a red roof.", "What colour is the roof?", "red"),
        ("The keeper lives in the yellow house.", "What colour is the house?", "yellow"),
        ("A grey cat guards the door.", "What colour is the cat?", "grey"),
    ],
)
def test_colours_are_asked_for_as_such(sentence: str, question: str, colour: str, parse: Language) -> None:
    found = spans(parse, sentence)
    assert found.get(question) == colour, found


def test_people_are_asked_for_with_who_and_things_with_what(parse: Language) -> None:
    assert "Who leads the choir of Tarn Mill?" in spans(parse, "The choir is led by Anna Holm.")
    assert "Who wrote the letters of Tarn Mill?" in spans(parse, "The letters were written by a nurse.")
    assert "Who does Nora Felding live with?" in spans(
        parse, "Nora Felding lives in Oslo with her sister.", topic="Nora Felding"
    )
    assert "Who is the mayor of Fenwick?" in spans(parse, "The mayor is Ines Dorn.", topic="Fenwick")
    assert "What does the soup contain?" in spans(parse, "The soup contains no meat.", topic="Lentil soup")
    for sentence in ("The roof was destroyed by a storm.", "The soup contains no meat."):
        assert not any("who" in question.casefold().split() for question in spans(parse, sentence))


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("The mill has three floors.", "How many floors does the mill have?"),
        ("The mill had three floors.", "How many floors did the mill have?"),
        ("The mills have three floors.", "How many floors do the mills of Lorne have?"),
        ("The mill must have three floors.", "How many floors must the mill have?"),
        ("The mill can hold 40 guests.", "How many guests can the mill hold?"),
        ("The mill has held 40 guests.", "How many guests has the mill held?"),
        ("The mill will not hold 40 guests.", "How many guests will the mill not hold?"),
        ("The mill does not hold 40 guests.", "How many guests does the mill not hold?"),
        ("The mill was bought by 40 guests.", "By how many guests was the mill bought?"),
        ("The mill was taken by Anna Holm.", "Who took the mill?"),
        ("The mill was chosen by Anna Holm.", "Who chose the mill?"),
        ("The mills were seen by Anna Holm.", "Who saw the mills of Lorne?"),
    ],
)
def test_verbs_take_the_form_that_the_question_needs(sentence: str, question: str, parse: Language) -> None:
    topic = "Lorne" if "mills" in sentence else "Tarn Mill"
    found = spans(parse, sentence, topic=topic)
    assert question in found, found


def test_a_price_is_no_time_of_day(parse: Language) -> None:
    asked = spans(parse, "The lamp costs £5.50.", topic="Lamp")
    assert not any(question.startswith(("At what time", "When")) for question in asked)


def test_a_share_is_asked_for_as_one(parse: Language) -> None:
    asked = spans(parse, "The plan was approved by 75% of voters.")
    assert any("what percentage" in question.casefold() for question in asked)
    assert not any("%s" in question for question in asked)
