"""Which codes are in scope."""

from pathlib import Path

from medcode_assets.recipes.reasoning.corpus.scope import code_scope, read_scope, wanted_codes, write_scope
from medcode_assets.recipes.reasoning.settings import ReasoningSettings


def test_the_most_frequent_codes_of_each_system_are_kept_and_ties_go_by_code() -> None:
    frequencies = {
        ("icd10cm", "J20.9"): 4,
        ("icd10cm", "I10"): 9,
        ("icd10cm", "E11.9"): 4,
        ("icd10cm", "A04.7"): 1,
        ("cpt", "99213"): 3,
        ("hcpcs", "E0130"): 8,
        ("hcpcs", "A0428"): 0,
    }
    wanted = wanted_codes(ReasoningSettings(top_icd10=2, top_cpt=0, top_hcpcs=5))
    scope = code_scope(frequencies, wanted)
    assert list(scope.items()) == [(("icd10cm", "I10"), 9), (("icd10cm", "E11.9"), 4), (("hcpcs", "E0130"), 8)]


def test_scope_is_read_as_it_was_written(tmp_path: Path) -> None:
    titles = {"I10": "Essential (primary) hypertension, benign"}
    write_scope(tmp_path / "scope.csv", {("icd10cm", "I10"): 9, ("cpt", "99213"): 3}, lambda _, code: titles.get(code))
    assert (tmp_path / "scope.csv").read_text() == (
        "system,code,description,frequency_train\n"
        'icd10cm,I10,"Essential (primary) hypertension, benign",9\n'
        "cpt,99213,,3\n"
    )
    assert list(read_scope(tmp_path / "scope.csv")) == [
        ("icd10cm", "I10", "Essential (primary) hypertension, benign", 9),
        ("cpt", "99213", None, 3),
    ]
