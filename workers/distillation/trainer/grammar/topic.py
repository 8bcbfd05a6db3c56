"""What a context is about, in the fewest words that its own text uses: the subject that every question names."""

from __future__ import annotations

import re

from workers.distillation.trainer.questions import FUNCTION_WORDS

_PART = re.compile(r"\s*[:|–—(),;]\s*|\s+-\s+")
_WORD = re.compile(r"\S+")


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
    return parts[0] if parts else title.strip()


def names_in(text: str) -> set[str]:
    """The words that `text` writes with a capital or a digit wherever it writes them."""
    words = [word.strip("\"'“”‘’()[].,;:!?").removesuffix("'s").removesuffix("’s") for word in text.split()]
    small = {word for word in words if word.islower()}
    return {word for word in words if word and not word.islower() and word.casefold() not in small}


def _names(run: list[str], named: set[str]) -> bool:
    """Whether the run begins and ends with words of its own, one of which the text uses as a name."""
    if run[-1].casefold() in FUNCTION_WORDS or run[0].casefold() in FUNCTION_WORDS - {"the"}:
        return False
    return any(word in named and word.casefold() not in FUNCTION_WORDS for word in run)


def _with_article(name: str, said: str) -> str:
    """The name with the article that its text mostly gives it."""
    bare = name.removeprefix("The ").removeprefix("the ")
    with_article = said.count(f" the {_plain(bare)} ")
    return f"the {bare}" if 2 * with_article > said.count(f" {_plain(bare)} ") else bare


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s'-]", " ", text.casefold().replace("’s", " ").replace("'s", " ")).split())
