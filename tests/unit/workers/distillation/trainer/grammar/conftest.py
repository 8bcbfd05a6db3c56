from __future__ import annotations

import pytest

from workers.distillation.trainer.grammar import phrasing


@pytest.fixture(autouse=True)
def _bare_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked, without the topic that most questions are told; `test_phrasing` has that."""
    if request.module.__name__.rsplit(".", 1)[-1] != "test_phrasing":
        monkeypatch.setattr(phrasing, "form_of", lambda text: phrasing.ALONE)
