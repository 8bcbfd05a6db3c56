from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import SetupError
from workers.distillation.trainer.grammar.parser import is_english, load_parser


def test_the_parser_is_loaded_once(parser: str) -> None:
    assert load_parser(parser) is load_parser(parser)


def test_the_parser_sees_subjects_names_and_base_forms(parser: str) -> None:
    words = {token.text: token for token in load_parser(parser)("Anna Holm keeps geese.")}
    assert (words["Holm"].dep_, words["Holm"].ent_type_, words["keeps"].lemma_) == ("nsubj", "PERSON", "keep")


@pytest.mark.parametrize("reference", ["pypi:no-such-parser/inside", "pypi:spacy/no/such/path", "/no/such/directory"])
def test_a_parser_that_is_not_there_is_a_fault_of_the_set_up(reference: str) -> None:
    with pytest.raises(SetupError):
        load_parser(reference)


def test_a_directory_that_holds_no_parser_is_a_fault_of_the_set_up_too(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="can't be loaded"):
        load_parser(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "The mill was built by Anna Holm in 1871 and grinds rye.",
        "Hey! I'm Tom Rask. I love hiking, hate olives. My dog Rex is four. Noted! When do you wake up? At six.",
        "The bell was cast in 1702. The organ is loud. Peter Jones sells honey. Anna Holm sings.",
        "A LOW BRIDGE LEADS TO THE MILL AND TO ITS BARN.",
        "Anna Holm keeps geese, sheep and bees at the mill, which is on the river.",
    ],
)
def test_english_is_known_by_its_commonest_words(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "Die Mühle wurde 1871 von Anna Holm gebaut und steht am Fluss.",
        "Le moulin est au bord de la rivière et il est très vieux.",
        "El molino fue construido en 1871 por Anna Holm y es rojo.",
        "Młyn został zbudowany przez Annę Holm i stoi do dziś nad rzeką.",
        "De molen werd in 1702 gebouwd. De huidige molenaar is Jan Vos. Het is de oudste molen in de stad.",
        "Møllen blev bygget i 1702. Den nuværende møller er Jens Holm, og den er byens ældste.",
        "水車小屋 は 川 の ほとり に あり ます 今日 も",
        "rye barley oats wheat maize millet sorghum rice",
    ],
)
def test_other_languages_and_lists_of_words_are_not_english(text: str) -> None:
    assert not is_english(text)


def test_a_text_of_few_words_is_given_the_benefit_of_the_doubt() -> None:
    assert is_english("Moulin rouge")
    assert is_english("")
