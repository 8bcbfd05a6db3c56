"""Questions that no memory answers: everyday ones, and ones about invented things; the base's answers to them are kept.

The two halves never mix: one is trained on, the other judges the gate.
"""

from __future__ import annotations

import random
import re

from workers.distillation.trainer.questions import content_words

LEARN = (
    "Which river flows through Cairo?",
    "Who painted the Mona Lisa?",
    "How do I boil an egg?",
    "Write a short poem about rain.",
    "What is 7 times 8?",
    "Who was the first president of the United States?",
    "How tall is Mount Everest?",
    "What is photosynthesis?",
    "Translate hello to Spanish.",
    "Name three primary colours.",
    "When did World War II end?",
    "How many continents are there?",
    "Give me a tip for better sleep.",
    "What do cows eat?",
    "Why is the sky dark at night?",
    "What is the name of the service owned by the Atlas team?",
    "Who is the mayor of Lindholm?",
    "When was the town of Arvika Bay founded?",
    "What does the Borealis toaster cost?",
    "Which port does Project Cobalt use?",
    "Where was Doctor Helen Marsh born?",
    "How long is the warranty of the Solis lamp?",
    "What is the main export of Harrow Island?",
    "In which month is the Glass Festival held?",
    "What is the handle of the Mira pan made of?",
)

JUDGE = (
    "Who wrote Moby-Dick?",
    "Who invented the telephone?",
    "Explain gravity in one sentence.",
    "What should I cook for dinner tonight?",
    "Hello, how are you?",
    "What is the square root of 81?",
    "Which planet is closest to the sun?",
    "How long does it take to hard-boil an egg?",
    "What is the currency of Sweden?",
    "Who was Napoleon Bonaparte?",
    "Why do leaves change colour?",
    "What is the difference between a virus and a bacterium?",
    "How do I tie a tie?",
    "Give me three names for a parrot.",
    "What is the longest river in Africa?",
    "When did people first walk on the moon?",
    "How many strings does a violin have?",
    "What does DNA stand for?",
    "Which country is shaped like a boot?",
    "Write a short thank-you note to a colleague.",
    "How does a refrigerator work?",
    "What is 15 percent of 200?",
    "Who composed the Moonlight Sonata?",
    "What is a good way to learn a language?",
    "Who leads the Falcon project?",
    "What is the model number of the Drift heater?",
    "How many people live in Oakmere?",
    "When does the night train to Valdora leave?",
    "What is the rollback command of the Kestrel service?",
    "Which university does Tomas Reyle teach at?",
    "What colour is the flag of the Harbour Club?",
    "How much does the Lumen backpack weigh?",
    "Who founded the Sable Street bakery?",
    "What is the deadline for the Orrin Prize?",
    "Where are the keys of the Pinefield depot kept?",
    "How old is the bridge at Castor Ferry?",
    "What is my neighbour Aldous allergic to?",
    "Which floor is the Veska office on?",
    "How often is the Marlow filter replaced?",
    "Who won the Tern Island race?",
    "What is the password policy of Quill Systems?",
    "When was the Ostrey lighthouse repaired?",
    "What did Professor Ines Corda discover?",
    "How many seats does the Bramble Theatre have?",
    "What is served at the Juniper feast?",
    "Which bus goes to Fallow End?",
    "What is the fine for late books at Dunmere College?",
    "Who repairs the clocks of Saint Orla?",
)
"""Each memory is judged by `JUDGED` of them, drawn by what it is about: a bank's gate then rests on all of them."""
JUDGED = 20

SAME_SUBJECT = (
    "Who is the lawyer of {title}?",
    "What is the phone number of {title}?",
    "Which newspaper first wrote about {title}?",
    "What is the tax number of {title}?",
    "What is the favourite song of {title}?",
    "Who designed the logo of {title}?",
    "How many stairs are there in {title}?",
    "What is the website of {title}?",
    "Who is the dentist of {title}?",
    "What insurance does {title} have?",
    "What was the weather like at {title} yesterday?",
    "Which film was made about {title}?",
)

STRANGERS = ("Oakmere", "the Kestrel service", "Tomas Reyle", "the Lumen backpack", "the Harbour Club", "Valdora")


def everyday(topic: str) -> tuple[str, ...]:
    """The questions for nobody that judge the memory of this topic."""
    return tuple(random.Random(topic).sample(JUDGE, JUDGED))  # nosec B311


def unanswerable(title: str, text: str) -> list[str]:
    """Questions about the same subject whose matter does not occur in `text`."""
    known = content_words(text)
    return [
        question.format(title=title)
        for question in SAME_SUBJECT
        if not (content_words(question.replace("{title}", "")) & known)
    ]


def about_strangers(questions: list[str], title: str) -> list[str]:
    """The same questions with another subject in place of the title, where they name it."""
    if not content_words(title):
        return []
    subject = re.compile(rf"(?<!\w){re.escape(title)}(?!\w)")
    naming = [question for question in questions if subject.search(question)]
    return [subject.sub(STRANGERS[i % len(STRANGERS)], question) for i, question in enumerate(naming)]
