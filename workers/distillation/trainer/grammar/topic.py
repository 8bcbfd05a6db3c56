"""What a context is about, in the fewest words that its own text uses: the subject that every question names."""

from __future__ import annotations

import re
from collections import Counter

from workers.distillation.trainer.questions import FUNCTION_WORDS

_PART = re.compile(r"\s*[:|–—(),;]\s*|\s+-\s+")
_WORD = re.compile(r"\S+")
MOST_WORDS = 8


def topic_of(title: str, text: str) -> str:
    """The longest run of the title's words that holds a name and occurs in `text`; else the title's first part.

    "Brindle K40 Kettle: User Guide" is about the Brindle K40, if that is what its text calls it.
    """
    said = f" {_plain(text)} "
    named = names_in(text)
    parts = [part for part in _PART.split(title.strip()) if part]
    for part in parts:
        words = _WORD.findall(part)
        runs = [words[start:end] for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
        found = [" ".join(run) for run in runs if _names(run, named) and f" {_plain(' '.join(run))} " in said]
        if found:
            return _with_article(max(found, key=len), said)
    return _shortened(max(parts, key=lambda part: _told(part, said)) if parts else title.strip())


def names_in(text: str) -> set[str]:
    """The words that `text` writes with a capital or a digit more often than not."""
    words = [word.strip("\"'“”‘’()[].,;:!?").removesuffix("'s").removesuffix("’s") for word in text.split()]
    small = Counter(word for word in words if word.islower())
    other = Counter(word for word in words if word and not word.islower())
    return {word for word, count in other.items() if count > small[word.casefold()]}


def _names(run: list[str], named: set[str]) -> bool:
    """Whether the run begins and ends with words of its own, one of which the text uses as a name."""
    if run[-1].casefold() in FUNCTION_WORDS or run[0].casefold() in FUNCTION_WORDS - {"the"}:
        return False
    said = [word for word in run if any(char.isalpha() for char in word)]
    return bool(said) and any(word in named and word.casefold() not in FUNCTION_WORDS for word in run)


def _told(part: str, said: str) -> int:
    """How many of the part's words the text has."""
    return sum(f" {word} " in said for word in _plain(part).split() if word not in FUNCTION_WORDS)


def _shortened(topic: str) -> str:
    """No question could name a subject of twenty words."""
    words = topic.split()[:MOST_WORDS]
    while len(words) > 1 and words[-1].casefold() in FUNCTION_WORDS:
        words.pop()
    return " ".join(words)


def _with_article(name: str, said: str) -> str:
    """The name with the article that its text mostly gives it."""
    bare = name.removeprefix("The ").removeprefix("the ")
    with_article = said.count(f" the {_plain(bare)} ")
    return f"the {bare}" if 2 * with_article > said.count(f" {_plain(bare)} ") else bare


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s'-]", " ", text.casefold().replace("’s", " ").replace("'s", " ")).split())
