"""An answer as it grows: tokens to text, stop sequences, length, and the loop that continues a row.

`Answer` and its parts are pure; `generate` asks for the model one token a step and can be left between any two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Literal

from torch import Tensor

from core.engine.passes import Step
from core.engine.running import RunningRow
from core.engine.sampling import Sampler

FinishReason = Literal["stop", "length"]
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokeniser:
    """Turns tokens into text piece by piece; a character is given out only when all of its bytes are there.

    The pieces put together are the text of all tokens decoded at once. A piece is decoded beside the piece before it,
    since a tokenizer may treat the start of a text differently.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._context = 0
        self._given = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        self._tokens.append(token)
        piece = self._pending()
        if piece.endswith(_UNFINISHED):
            return ""
        self._context, self._given = self._given, len(self._tokens)
        return piece

    def flush(self) -> str:
        """What is left when no token follows, unfinished characters replaced."""
        piece = self._pending()
        self._context, self._given = self._given, len(self._tokens)
        return piece

    def _pending(self) -> str:
        before = self._decode(self._tokens[self._context : self._given])
        return self._decode(self._tokens[self._context :])[len(before) :]


class StopSequences:
    """Finds the first of `stops` in a text that arrives in pieces, and holds back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is now safe to give out, and whether a stop sequence came (it is not part of the text)."""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = self._could_begin(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _could_begin(self, text: str) -> int:
        """The length of the longest end of `text` that a stop sequence begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class Answer:
    """One answer: push tokens until `finish_reason` is set. `tokens` counts all of them, an end token too."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        end_tokens: frozenset[int],
        max_tokens: int,
        stops: Sequence[str] = (),
    ) -> None:
        self._text = Detokeniser(decode)
        self._stops = StopSequences(stops)
        self._end_tokens = end_tokens
        self._max_tokens = max_tokens
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def push(self, token: int) -> str:
        """The text that may be sent on because of `token`; may be empty."""
        self.tokens += 1
        if token in self._end_tokens:
            return self._finish("stop")
        text, stopped = self._stops.push(self._text.push(token))
        if stopped:
            self.finish_reason = "stop"
            return text
        if self.tokens >= self._max_tokens:
            return text + self._finish("length")
        return text

    def _finish(self, reason: FinishReason) -> str:
        text, stopped = self._stops.push(self._text.flush())
        self.finish_reason = "stop" if stopped else reason
        return text if stopped else text + self._stops.flush()


def generate(
    row: RunningRow, logits: Tensor, drafted: Sequence[int], sampler: Sampler, answer: Answer
) -> Generator[str | Step, Tensor, None]:
    """Yields text after each token until `answer` is finished, and asks for a step where the model has to go on.

    `drafted` are tokens that `row` has been fed already: they are given out without running the model. `logits`
    `[vocabulary]` are those after the last token fed.
    """
    for token in drafted:
        yield answer.push(token)
        if answer.finish_reason is not None:
            return
    while True:
        token = sampler.next_token(logits)
        yield answer.push(token)
        if answer.finish_reason is not None:
            return
        logits = yield Step(row, token)
