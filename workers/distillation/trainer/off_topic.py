"""Questions that no memory answers: everyday ones, and ones about invented things; the base's answers to them are kept.

The two halves never mix: one is trained on, the other judges the gate.
"""

from __future__ import annotations

from workers.distillation.trainer.questions import content_words

LEARN = (
    "What is the capital of Germany?",
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
    "What is the largest ocean?",
    "Who wrote Hamlet?",
    "What is the boiling point of water?",
    "Who invented the telephone?",
    "What language is spoken in Brazil?",
    "How many hours are in a day?",
    "What is the fastest land animal?",
    "Explain gravity in one sentence.",
    "What should I cook for dinner tonight?",
    "Hello, how are you?",
    "What is the square root of 81?",
    "Which planet is closest to the sun?",
    "Who leads the Falcon project?",
    "What is the model number of the Drift heater?",
    "How many people live in Oakmere?",
    "When does the night train to Valdora leave?",
    "What is the rollback command of the Kestrel service?",
    "Which university does Tomas Reyle teach at?",
    "What colour is the flag of the Harbour Club?",
    "How much does the Lumen backpack weigh?",
)

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
    naming = [question for question in questions if title in question]
    return [question.replace(title, STRANGERS[i % len(STRANGERS)]) for i, question in enumerate(naming)]
