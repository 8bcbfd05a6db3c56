"""The chat template, split where adapters begin to act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidRequest, SetupError


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a chat: `prefix` is computed by the base alone, adapters act from `activation` on."""

    prefix: tuple[int, ...]
    activation: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.activation)


def about(text: str, question: str) -> str:
    """The message that asks a question with a text before it: what a memory is taught by, and what it has to beat."""
    return f"{_before(text)}{_using(question)}"


def with_text(text: str, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """`messages` with a text in front: before what the user says first, and the last thing the user says asks about it.

    Of one message that is `about`. So all questions to a text begin with the same tokens. Raises `InvalidRequest` where
    the user says nothing.
    """
    placed = [dict(message) for message in messages]
    of_user = [message for message in placed if message["role"] == "user"]
    if not of_user:
        raise InvalidRequest("A memory can answer only where a message of the user asks something.")
    of_user[-1]["content"] = _using(of_user[-1]["content"])
    of_user[0]["content"] = f"{_before(text)}{of_user[0]['content']}"
    return placed


def _before(text: str) -> str:
    return f"{text}\n\n"


def _using(question: str) -> str:
    return f"Using the text above, answer briefly: {question}"


class Chat:
    """Renders messages with the tokenizer's own chat template."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise SetupError("The base model's tokenizer has no chat template; use an instruction-tuned model.")
        self.tokenizer = tokenizer

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """`messages` of `{role, content}` to a `Prompt`.

        Raises `InvalidRequest` where the template refuses the messages, `SetupError` where the assistant header is not
        a token suffix of the prompt.
        """
        before = self._ids(messages, header=False)
        whole = self._ids(messages, header=True)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise SetupError("The chat template has no assistant header that adapters could be activated from.")
        return Prompt(tuple(before), tuple(whole[len(before) :]))

    def ask(self, question: str) -> Prompt:
        """The prompt of one user message."""
        return self.prompt([{"role": "user", "content": question}])

    def ask_about(self, text: str, question: str) -> Prompt:
        """The prompt of a question with a text before it."""
        return self.prompt(with_text(text, [{"role": "user", "content": question}]))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _ids(self, messages: Sequence[Mapping[str, str]], *, header: bool) -> list[int]:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=header
            )
        except Exception as problem:
            raise InvalidRequest(f"The chat template refuses these messages: {problem}") from problem
        return self.encode(text)
