"""A pharmacist's own rule files: what they add, and one clear error with file and row."""

from pathlib import Path

import pytest

from medcode_serving.errors import MedcodeError
from medcode_serving.safety import check_safety, load_rules

INTERACTIONS = "drug_a,drug_b,severity,effect,action,source\n"
DRUGS = "name,brands,also,classes\n"
DOSES = (
    "drug,route,unit,max_single,max_daily,max_single_per_kg,max_daily_per_kg,child_single_per_kg,child_daily_per_kg,"
    "min_hours,min_age,max_age,age_severity,note,source\n"
)


def test_the_shipped_rules_hold_what_is_promised() -> None:
    rules = load_rules()
    named = [row for row in rules.interactions.values() if "class:" not in row.drug_a + row.drug_b]
    assert len(named) >= 200
    assert len(rules.emergencies) >= 25
    assert len(rules.doses) >= 60
    assert all(row.source for row in rules.interactions.values())


def test_own_rows_are_added_and_take_the_place_of_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "drugs.csv").write_text(DRUGS + "examplinib,Examply,,class:nsaid\n")
    (tmp_path / "interactions.csv").write_text(
        INTERACTIONS
        + "examplinib,metformin,high,Made up.,Avoid.,our formulary\n"
        + "ibuprofen,warfarin,low,Ours.,Fine.,our formulary\n"
    )
    (tmp_path / "doses.csv").write_text(DOSES + "acetaminophen,oral,g,1,3,,,,,,,,,,our formulary\n")
    rules = load_rules(tmp_path)
    assert rules.version != load_rules().version
    (warning,) = check_safety("Take metformin.", question="I take Examply.", rules=rules).warnings
    assert (warning.rule, warning.source) == ("examplinib+metformin", "our formulary")
    (warning,) = check_safety("Take ibuprofen.", question="I take warfarin.", rules=rules).warnings
    assert (warning.severity, warning.message) == ("low", "warfarin and ibuprofen: Ours. Fine.")
    (warning,) = check_safety("Acetaminophen 3500 mg a day.", rules=rules).warnings
    assert "3.5 g in a day is more than 3 g" in warning.message
    assert check_safety("Take Examply.", question="I take apixaban.", rules=rules).risk_level == "high"


def test_the_smallest_usual_dose_may_be_told(tmp_path: Path) -> None:
    header = DOSES.replace("note,source", "usual_least,note,source")
    (tmp_path / "doses.csv").write_text(header + "acetaminophen,oral,g,1,3,,,,,,,,,0.5,,our formulary\n")
    (warning,) = check_safety("Acetaminophen 40 mg.", rules=load_rules(tmp_path)).warnings
    assert "0.04 g is far below any usual dose (0.5 g or more)" in warning.message
    assert check_safety("Acetaminophen 60 mg.", rules=load_rules(tmp_path)).warnings == ()


def test_own_emergencies(tmp_path: Path) -> None:
    (tmp_path / "emergencies.yaml").write_text(
        "terms: {ours: ['green (tongue|nose)']}\n"
        "rules: [{id: ours, severity: high, when: [[ours]], message: See us., source: us}]\n"
    )
    (warning,) = check_safety("Rest.", question="I have a green nose.", rules=load_rules(tmp_path)).warnings
    assert (warning.rule, warning.message) == ("ours", "See us.")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("interactions.csv", "drug_a,drug_b\n", "interactions.csv, row 1: columns missing: severity, effect"),
        ("interactions.csv", "", "interactions.csv, row 1: columns missing"),
        ("interactions.csv", INTERACTIONS + "warfarin,nosuch,high,x,y,z\n", "row 2: unknown drug 'nosuch'"),
        ("interactions.csv", INTERACTIONS + "warfarin,class:no,high,x,y,z\n", "row 2: unknown drug 'class:no'"),
        ("interactions.csv", INTERACTIONS + "warfarin,digoxin,bad,x,y,z\n", "row 2, column severity: Input should be"),
        ("interactions.csv", INTERACTIONS + "warfarin,digoxin,high,x,y,\n", "row 2, column source"),
        ("interactions.csv", INTERACTIONS + "warfarin,digoxin,high,x\n", "row 2: needs 6 values"),
        ("interactions.csv", INTERACTIONS + "warfarin,warfarin,high,x,y,z\n", "row 2: warfarin with itself"),
        (
            "interactions.csv",
            INTERACTIONS + "warfarin,digoxin,high,x,y,z\ndigoxin,warfarin,low,x,y,z\n",
            "interactions.csv, row 3: the same as row 2",
        ),
        ("interactions.csv", INTERACTIONS + 'warfarin,digoxin,high,"x\n', "no CSV"),
        ("drugs.csv", DRUGS + "newdrug,Advil,,\n", "row 2: 'Advil' is also ibuprofen"),
        ("drugs.csv", DRUGS + "newdrug,,,class:none\n", "row 2: unknown class 'class:none'"),
        ("products.csv", "name,drugs\nBoth,warfarin;none\n", "products.csv, row 2: unknown drug 'none'"),
        ("classes.csv", "class,names\nnsaid,x\n", "classes.csv, row 2, column class"),
        ("doses.csv", DOSES + "nosuch,oral,mg,1,,,,,,,,,,,s\n", "doses.csv, row 2: unknown drug 'nosuch'"),
        ("doses.csv", DOSES + "warfarin,oral,grain,1,,,,,,,,,,,s\n", "row 2: unknown unit 'grain'; there are mcg, mg"),
        ("doses.csv", DOSES + "warfarin,oral,mg,ten,,,,,,,,,,,s\n", "row 2, column max_single"),
        ("doses.csv", DOSES + "warfarin,oral,mg,-1,,,,,,,,,,,s\n", "row 2, column max_single: Input should be greater"),
        ("doses.csv", DOSES + "warfarin,oral,mg,1,,,,,,,5,,,,s\n", "row 2: an age limit needs an age_severity"),
        ("emergencies.yaml", "rules: [", "emergencies.yaml, row"),
        ("emergencies.yaml", "terms: {t: [no]}", "emergencies.yaml, terms.t.0: Input should be a valid string"),
        ("emergencies.yaml", "terms: {t: ['a (b']}", "cannot read the phrase 'a (b' of term:t"),
        (
            "emergencies.yaml",
            "rules: [{id: a, severity: high, when: [[nosuch]], message: m, source: s}]",
            "rule a: unknown term 'nosuch'",
        ),
        ("interaction.csv", "x\n", "unknown file interaction.csv"),
    ],
)
def test_one_clear_error(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MedcodeError) as raised:
        load_rules(tmp_path)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_encodings_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="no rule file in it"):
        load_rules(tmp_path)
    with pytest.raises(MedcodeError, match="cannot be read"):
        load_rules(tmp_path / "missing")
    (tmp_path / "drugs.csv").write_bytes(DRUGS.encode() + "caf\xe9,,,\n".encode("latin-1"))
    with pytest.raises(MedcodeError, match="drugs.csv, row 2: not UTF-8"):
        load_rules(tmp_path)
