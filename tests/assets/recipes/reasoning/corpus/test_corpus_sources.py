"""Preprocessing of narratives, and what a stage may name as a source."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.corpus.sources import (
    cleaned,
    mimic_versions,
    refuse_unusable_sources,
    source_files,
    with_narrative,
)
from medcode_assets.recipes.reasoning.formats import stage_1_line, stage_3_line
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.errors import MedcodeError


@pytest.mark.parametrize(
    ("narrative", "expected"),
    [
        ("Cough.\r\nFever.\rChills.", "Cough.\nFever.\nChills."),
        ("a\x00b\x07c\x1b[0m\x7f\td", "abc[0m\td"),
        ("one\n\n\n \n\t\n\ntwo\n\nthree\nfour", "one\n\ntwo\n\nthree\nfour"),
        ("page one\fpage two", "page one\npage two"),
        ("  Ame\u0301lie \n", "Am\u00e9lie"),
        ("[**Known lastname 12**] was seen at ___ on [**2151-7-16**].",) * 2,
        ("\x01\n ", ""),
    ],
)
def test_narratives_are_cleaned(narrative: str, expected: str) -> None:
    assert cleaned(narrative) == expected


@given(st.text())
def test_a_clean_narrative_stays_as_it_is(text: str) -> None:
    assert cleaned(cleaned(text)) == cleaned(text)


def test_only_the_narrative_of_a_line_is_replaced() -> None:
    one = stage_1_line("old text of it", "icd10cm", "I10", None, source="s", group="g")
    assert with_narrative(one, "new") == stage_1_line("new", "icd10cm", "I10", None, source="s", group="g")
    three = stage_3_line("old", "ICD10: I10", "ICD10: I11.9", source="s")
    assert with_narrative(three, "new") == stage_3_line("new", "ICD10: I10", "ICD10: I11.9", source="s")


def test_what_the_stages_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "cpt.csv").touch()
    settings = {
        1: ReasoningSettings(
            sources={"synthetic": 1, "mimic:iv-3.1": 2, str(tmp_path / "a.jsonl"): 1},
            cpt_descriptions=str(tmp_path / "cpt.csv"),
        ),
        2: ReasoningSettings(stage=2, sources={str(tmp_path / "a.jsonl"): 1}),
    }
    refuse_unusable_sources(settings)
    assert source_files(settings) == [tmp_path / "a.jsonl", tmp_path / "cpt.csv"]
    assert mimic_versions(settings) == ["iv-3.1"]


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        (2, {"sources": {"mimic:iv": 1.0}}, "reasoning.sources of stage 2: mimic:iv has codes without reasoning"),
        (1, {"sources": {"gone.jsonl": 1.0}}, "reasoning.sources of stage 1: gone.jsonl is no file; name `synthetic`"),
        (3, {"cpt_descriptions": "gone.csv"}, "reasoning.cpt_descriptions of stage 3: gone.csv is no file"),
    ],
)
def test_a_source_that_is_not_there_is_named(stage: int, changed: dict[str, object], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        refuse_unusable_sources({stage: ReasoningSettings(stage=stage, **changed)})


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_a_number(weight: float) -> None:
    settings = ReasoningSettings.model_construct(sources={"synthetic": weight}, cpt_descriptions=None)
    with pytest.raises(MedcodeError, match="sources of stage 1: synthetic has weight"):
        refuse_unusable_sources({1: settings})
