from __future__ import annotations

from workers.distillation.trainer.off_topic import JUDGE, JUDGED, LEARN, STRANGERS, about_strangers, everyday


def test_what_is_learnt_and_what_judges_share_no_question() -> None:
    assert not {*LEARN} & {*JUDGE}
    assert len({*JUDGE}) == len(JUDGE) > 2 * JUDGED


def test_each_topic_is_always_judged_by_the_same_questions_and_others_by_others() -> None:
    assert everyday("Tarn Mill") == everyday("Tarn Mill")
    assert len({*everyday("Tarn Mill")}) == JUDGED
    assert {*everyday("Tarn Mill")} != {*everyday("Fenwick")}


def test_a_stranger_takes_the_place_of_the_whole_topic_alone() -> None:
    assert about_strangers(["Who owns Tarn Mill?", "Who owns Tarn Millhouse?"], "Tarn Mill") == [
        f"Who owns {STRANGERS[0]}?"
    ]
    assert about_strangers(["When does the service leave?"], ":") == []
    assert about_strangers(["Anna Holm owns A."], "A") == []
