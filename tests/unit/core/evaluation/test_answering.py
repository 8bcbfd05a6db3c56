from __future__ import annotations

from core.base_model.loading import LoadedBase
from core.evaluation.answering import ANSWER_TOKENS, Answerer, Ask
from tests.unit.core.engine.test_rows import QUESTIONS, alone, loaded

TEXT = "Orsk is a town. Its capital is Tessle, and it has three ports."


def test_every_ask_is_answered_as_it_would_be_alone(loaded_tiny: LoadedBase) -> None:
    expected = {question: alone(loaded_tiny, question) for question in QUESTIONS}
    answerer = Answerer(loaded_tiny, loaded(loaded_tiny), {"a": 1, "b": 2})
    asks = [Ask(question, document_id=memory) for question in QUESTIONS for memory in (None, "a", "b")]
    asks += [Ask(question, TEXT) for question in QUESTIONS]
    together = answerer.answers(asks)
    assert together == {ask: answerer.answers([ask])[ask] for ask in asks}
    for question in QUESTIONS:
        start = loaded_tiny.chat.decode(expected[question])
        assert together[Ask(question)].startswith(start.split("<|im_end|>")[0])
        assert together[Ask(question, document_id="a")] != together[Ask(question)]


def test_a_text_is_before_the_question_as_self_study_puts_it(loaded_tiny: LoadedBase) -> None:
    answerer = Answerer(loaded_tiny, None, {})
    message = f"{TEXT}\n\nUsing the text above, answer briefly: Hi"
    assert answerer.answers([Ask("Hi", TEXT)])[Ask("Hi", TEXT)] == answerer.answers([Ask(message)])[Ask(message)]


def test_the_same_ask_is_answered_once(loaded_tiny: LoadedBase) -> None:
    told: list[int] = []
    answers = Answerer(loaded_tiny, None, {}).answers([Ask("Hi"), Ask("Hi")], told.append)
    assert list(answers) == [Ask("Hi")]
    assert told == [1]


def test_what_does_not_fit_the_window_is_answered_by_nothing(loaded_tiny: LoadedBase) -> None:
    long = "word " * (loaded_tiny.description.context_tokens // 4)
    answers = Answerer(loaded_tiny, None, {}).answers([Ask("Hi", long), Ask("Hi", TEXT)])
    assert answers[Ask("Hi", long)] == ""
    assert ANSWER_TOKENS > 0


def test_the_draft_of_a_pair_does_not_depend_on_the_other_pairs(loaded_tiny: LoadedBase) -> None:
    answerer = Answerer(loaded_tiny, loaded(loaded_tiny), {"a": 1, "b": 2})
    asks = [Ask(question, document_id=memory) for question in QUESTIONS for memory in ("a", "b")]
    together = answerer.drafts(asks)
    assert set(together) == set(asks)
    for ask in asks[:2]:
        alone = answerer.drafts([ask])[ask]
        assert (alone.text, alone.ended) == (together[ask].text, together[ask].ended)
        assert abs(alone.signals.kl - together[ask].signals.kl) < 1e-3


def test_without_memories_there_are_no_drafts(loaded_tiny: LoadedBase) -> None:
    assert Answerer(loaded_tiny, None, {}).drafts([]) == {}
