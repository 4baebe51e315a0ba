"""`medcode data check`: each rule on a line that breaks it, whole files, the report, the page and the command."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from medcode_assets.cli import app
from medcode_assets.recipes.reasoning.formats import LINE_OF, stage_1_line, stage_2_line, stage_3_line, written
from medcode_assets.recipes.reasoning.quality import check_files, quality_checks
from medcode_assets.recipes.reasoning.quality_page import quality_page
from medcode_assets.recipes.reasoning.quality_report import Bin, QualityReport, lengths_of
from medcode_assets.recipes.reasoning.rules import Limits, line_problems, rule_book, rules, severity
from medcode_serving.codes.tables import CodeTables, code_tables
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import answer_text

NARRATIVE = "Zebra keeper with productive cough and low fever since four days. Chest film clear, no pneumonia seen."
POINTS = ["productive cough and low fever", "clear chest film, no pneumonia"]
BRONCHITIS = "ICD10: J20.9 (Acute bronchitis, unspecified)"
NOT_VALID = "ICD10: E11.0"  # a header
GOOD = {
    1: stage_1_line(NARRATIVE, "icd10cm", "J20.9", "Acute bronchitis, unspecified", source="synthetic"),
    2: stage_2_line(
        NARRATIVE, POINTS, "icd10cm", "J20.9", "Acute bronchitis, unspecified", quality=1.0, source="synthetic"
    ),
    3: stage_3_line(
        NARRATIVE,
        answer_text(POINTS, BRONCHITIS),
        answer_text(["seems ill"], "ICD10: J20.8"),
        source="synthetic",
    ),
}


@pytest.fixture(scope="module")
def tables() -> CodeTables:
    return code_tables()


def changed(
    stage: int,
    *,
    narrative: str | None = None,
    answer: str | None = None,
    system_message: str | None = None,
    metadata: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the good line of a stage with parts of it changed."""
    line: dict[str, Any] = json.loads(written(GOOD[stage]))
    line["_metadata"] |= metadata or {}
    messages = line["prompt" if stage == 3 else "messages"]
    for place, text in enumerate((system_message, narrative, answer)):
        if text is not None:
            messages[place]["content"] = text
    return line | fields


def reasoned(*points: str, line: str = BRONCHITIS) -> str:
    return answer_text(points, line)


ONE_LINE: list[tuple[int, dict[str, Any], dict[str, str]]] = [
    (1, changed(1), {}),
    (2, changed(2), {}),
    (3, changed(3), {}),
    (1, changed(1, answer=NOT_VALID, metadata={"code": "E11.0", "code_valid": False}), {"code_invalid": "header"}),
    (
        1,
        changed(1, answer=NOT_VALID, metadata={"code": "E11.0"}),
        {"code_invalid": "E11.0 (header)", "invalid_marked_valid": "E11.0 (header)"},
    ),
    (1, changed(1, metadata={"code_valid": False}), {"valid_marked_invalid": "J20.9"}),
    (1, changed(1, metadata={"code": "J20.8"}), {"metadata_code_differs": "J20.8 for an answer of J20.9"}),
    (1, changed(1, metadata={"code": "J209"}), {}),
    (1, changed(1, answer="ICD10: J209"), {"code_spelling": "J209 for J20.9"}),
    (1, changed(1, metadata={"code_type": "cpt"}), {"metadata_type_differs": "CPT for an answer of ICD10"}),
    (1, changed(1, answer=f"The code is {BRONCHITIS}"), {"answer_format": "read as J20.9"}),
    (1, changed(1, answer="Bronchitis."), {"answer_format": "no code can be read"}),
    (1, changed(1, answer="ICD10: J20.9 (Bronchitis)"), {"description_differs": "J20.9"}),
    (1, changed(1, answer="ICD10: J20.9 (ACUTE bronchitis,  unspecified)"), {}),
    (
        1,
        changed(1, answer="CPT: 99213 (Office visit)", metadata={"code": "99213", "code_type": "CPT"}),
        {"cpt_description_unlicensed": "99213"},
    ),
    (1, changed(1, answer="CPT: 99213", metadata={"code": "99213", "code_type": "CPT"}), {}),
    # Whether a CPT code is valid nobody knows without a table: the mark stands.
    (1, changed(1, answer="CPT: 99213", metadata={"code": "99213", "code_type": "CPT", "code_valid": False}), {}),
    (1, changed(1, narrative="Cough and fever."), {"narrative_too_short": "words: 3, expected 5 or more"}),
    (1, changed(1, narrative=f"{NARRATIVE} Coded as j20.9."), {"code_in_narrative": "J20.9"}),
    (1, changed(1, narrative=f"{NARRATIVE} (J209)"), {"code_in_narrative": "J20.9"}),
    (1, changed(1, narrative=f"{NARRATIVE} J20.91, XJ20.9"), {}),
    (1, changed(1, narrative=f"{NARRATIVE} <think>"), {"marker_in_narrative": "<think>"}),
    (1, changed(1, system_message="You are a coder."), {"other_system_prompt": "characters: 16"}),
    (1, changed(1, answer=reasoned(*POINTS)), {"reasoning_in_stage_1": "points: 2"}),
    (
        2,
        changed(2, answer=BRONCHITIS),
        {"reasoning_missing": "no tags", "reasoning_flag_differs": "true, points: 0"},
    ),
    (2, changed(2, answer=BRONCHITIS, metadata={"reasoning_present": False}), {"reasoning_missing": "no tags"}),
    (2, changed(2, metadata={"reasoning_present": False}), {"reasoning_flag_differs": "false, points: 2"}),
    (
        2,
        changed(2, answer=f"<think>\n- productive cough\n{BRONCHITIS}"),
        {
            "answer_format": "no code can be read",
            "reasoning_missing": "never closed",
            "reasoning_flag_differs": "true, points: 0",
        },
    ),
    (2, changed(2, answer=reasoned("cough " * 121)), {"reasoning_too_long": "words: 121, allowed 120"}),
    (2, changed(2, answer=reasoned("cough " * 120)), {}),
    (2, changed(2, answer=reasoned("fever, cough")), {"reasoning_too_short": "words: 2, expected 3 or more"}),
    (
        2,
        changed(2, answer=reasoned("broken left arm", "fell off the roof", "productive cough and fever")),
        {
            "reasoning_unsupported": "0.33 of 3 points, expected 0.5 or more",
            "reasoning_quality_differs": "1.00 told, 0.33 found",
        },
    ),
    (2, changed(2, metadata={"reasoning_quality": 0.74}), {"reasoning_quality_differs": "0.74 told, 1.00 found"}),
    (2, changed(2, metadata={"reasoning_quality": 0.76}), {}),
    (
        3,
        changed(3, chosen=answer_text(["broken left arm", "fell off the roof"], BRONCHITIS)),
        {"reasoning_unsupported": "0.00 of 2 points"},
    ),
    (
        3,
        changed(3, rejected=f"  {GOOD[3].completion.replace(' ', '  ')}\n"),  # type: ignore[union-attr]
        {"chosen_equals_rejected": "J20.9"},
    ),
    (
        3,
        changed(3, rejected=answer_text(["Productive cough  and low fever", POINTS[1]], "ICD10: J20.9")),
        {"same_answer": "J20.9, points: 2"},
    ),
    (
        3,
        changed(3, chosen=answer_text(POINTS, NOT_VALID)),
        {"code_invalid": "E11.0 (header)", "rejected_better": "chosen E11.0 (header), rejected J20.8"},
    ),
    (3, changed(3, chosen=BRONCHITIS), {"reasoning_missing": "no tags"}),
]


@pytest.mark.parametrize(("stage", "line", "expected"), ONE_LINE)
def test_a_line_has_exactly_the_problems_that_it_has(
    stage: int, line: dict[str, Any], expected: dict[str, str], tables: CodeTables
) -> None:
    found = line_problems(LINE_OF[stage].model_validate(line), 7, stage, Limits(), tables)
    assert {problem.kind for problem in found} == set(expected)
    assert len(found) == len(expected)
    for problem in found:
        assert problem.line == 7
        assert expected[problem.kind] in problem.detail


def test_a_users_cpt_texts_are_the_measure_of_cpt_descriptions(tmp_path: Path) -> None:
    file = tmp_path / "cpt.csv"
    file.write_text("code,description\n99213,Made-up visit\n", encoding="utf-8")
    line = changed(1, answer="CPT: 99213 (Office visit)", metadata={"code": "99213", "code_type": "CPT"})
    found = line_problems(LINE_OF[1].model_validate(line), 1, 1, Limits(), code_tables(file))
    assert [problem.kind for problem in found] == ["description_differs"]


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def checked(tables: CodeTables, path: Path, stage: int, *against: Path, limits: Limits | None = None) -> QualityReport:
    return check_files(path, stage, against, limits or Limits(), tables, lambda done, total: None)


def found_in(report: QualityReport) -> dict[str, list[tuple[int, str]]]:
    return {
        problem.kind: [(one.line, one.detail) for one in problem.examples]
        for problem in report.problems
        if problem.group != "balance"
    }


# 40 words: one of them changed leaves 31 of 36 shingles in common, of 41 together: a similarity of 0.76. The last one
# changed leaves 35 of 37: 0.95.
LONG = " ".join(f"finding{number}" for number in range(40))


def test_repeated_narratives_are_told_apart(tables: CodeTables, tmp_path: Path) -> None:
    other = changed(1, answer="ICD10: J20.8", metadata={"code": "J20.8"})
    hcpcs = changed(1, answer="HCPCS: E0130", metadata={"code": "E0130", "code_type": "HCPCS"})
    path = write(
        tmp_path / "train.jsonl",
        changed(1, narrative=LONG),
        "",
        changed(1, narrative=f"  {LONG.upper()} "),
        changed(1, narrative=f"{LONG[:-1]}x"),
        changed(1, narrative=LONG.replace("finding20", "another")),
        {**other, "messages": changed(1, narrative=LONG, answer="ICD10: J20.8")["messages"]},
        {**hcpcs, "messages": changed(1, narrative=LONG, answer="HCPCS: E0130")["messages"]},
    )
    report = checked(tables, path, 1)
    assert found_in(report) == {
        "duplicate": [(3, "line 1")],
        "near_duplicate": [(4, "line 1")],
        "contradiction": [(6, "line 1")],
        "same_narrative": [(7, "line 1")],
    }
    assert (report.lines, report.readable, report.with_errors, report.with_warnings) == (6, 6, 2, 2)
    assert not report.passed


def test_pairs_of_one_narrative_are_no_duplicates_unless_both_answers_are_the_same(
    tables: CodeTables, tmp_path: Path
) -> None:
    other = changed(3, rejected=answer_text(["looks unwell"], "ICD10: J20.8"))
    path = write(tmp_path / "pairs.jsonl", changed(3), other, changed(3))
    assert found_in(checked(tables, path, 3)) == {"duplicate": [(3, "line 1")], "same_narrative": [(2, "line 1")]}


def test_nothing_may_stand_in_two_splits(tables: CodeTables, tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.jsonl",
        changed(1, narrative=LONG),
        changed(1, narrative="A wholly other text with words that nobody else has here."),
        changed(1, narrative=f"{NARRATIVE} Two words.", metadata={"group": "patient-9"}),
        changed(1, narrative="Nothing of this one is anywhere else at all."),
    )
    # A narrative of another stage is the same narrative.
    test = write(
        tmp_path / "test.jsonl",
        changed(3, prompt=changed(3, narrative=f"{LONG[:-1]}x")["prompt"], _metadata={"group": "patient-8"}),
        changed(3, prompt=changed(3, narrative="a WHOLLY other text with words that nobody else has here.")["prompt"]),
    )
    validation = write(
        tmp_path / "validation.jsonl",
        changed(1, narrative="Unlike all of them it is, and short.", metadata={"group": "patient-9"}),
        "{",
    )
    report = checked(tables, train, 1, test, validation)
    assert found_in(report) == {
        "near_leak": [(1, "test.jsonl, line 1")],
        "leak": [(2, "test.jsonl, line 2")],
        "group_leak": [(3, "in validation.jsonl")],
        "against_unreadable": [(0, "validation.jsonl, line 2: not_json")],
    }
    assert [(Path(other.path).name, other.lines) for other in report.against] == [
        ("test.jsonl", 2),
        ("validation.jsonl", 1),
    ]
    assert {name: passed for name, passed, _ in quality_checks(report)}["leakage"] is False
    assert checked(tables, train, 1).passed
    assert "leakage" not in [name for name, _, _ in quality_checks(checked(tables, train, 1))]


def test_a_file_is_not_held_against_itself(tables: CodeTables, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", changed(1))
    (tmp_path / "link.jsonl").symlink_to(path)
    with pytest.raises(MedcodeError, match=r"link.jsonl: is the file that is checked"):
        checked(tables, path, 1, tmp_path / "link.jsonl")
    with pytest.raises(MedcodeError, match=r"none.jsonl: cannot be read"):
        checked(tables, path, 1, tmp_path / "none.jsonl")


def numbered(count: int, code: str, source: str = "synthetic", *, start: int = 0) -> list[dict[str, Any]]:
    """Return lines of a code whose narratives have nothing in common."""
    return [
        changed(
            1,
            narrative=" ".join(f"word{code}{number}x{place}" for place in range(6)),
            answer=f"ICD10: {code}",
            metadata={"code": code, "source": source},
        )
        for number in range(start, start + count)
    ]


def test_balance_is_counted(tables: CodeTables, tmp_path: Path) -> None:
    walker = changed(1, answer="HCPCS: E0130", metadata={"code": "E0130", "code_type": "HCPCS", "source": ""})
    lines = [*numbered(4, "J20.9"), *numbered(3, "I10", "mtsamples"), *numbered(2, "E11.9"), walker]
    report = checked(tables, write(tmp_path / "train.jsonl", *lines), 1)
    assert [(one.system, one.lines, one.codes, one.rare) for one in report.systems] == [
        ("hcpcs", 1, 1, 1),
        ("icd10cm", 9, 3, 0),
    ]
    assert [(one.code, one.lines) for one in report.frequent_codes] == [
        ("J20.9", 4),
        ("I10", 3),
        ("E11.9", 2),
        ("E0130", 1),
    ]
    assert report.sources == {"synthetic": 6, "mtsamples": 3, "(not told)": 1}
    assert {problem.kind: problem.examples[0].detail for problem in report.problems} == {
        "frequent_code": "J20.9: 4 of 10 lines (40%)",
        "rare_codes": "1 of 4 codes have fewer than 2 lines: E0130",
    }
    assert report.passed
    assert (report.with_errors, report.with_warnings) == (0, 0)
    checks = {name: passed for name, passed, _ in quality_checks(report)}
    assert checks == {"schema": True, "valid_codes": True, "reasoning": True, "duplicates": True, "balance": False}
    spread = checked(tables, write(tmp_path / "spread.jsonl", *lines[:3], *lines[4:-1], *numbered(2, "J20.8")), 1)
    assert not spread.problems
    assert all(passed for _, passed, _ in quality_checks(spread))


def test_at_most_twenty_lines_are_told_of_a_problem(tables: CodeTables, tmp_path: Path) -> None:
    report = checked(tables, write(tmp_path / "train.jsonl", *["{"] * 33), 1)
    (problem,) = report.problems
    assert (problem.kind, problem.count) == ("not_json", 33)
    assert [one.line for one in problem.examples] == list(range(1, 21))
    assert (report.lines, report.readable, report.with_errors) == (33, 0, 33)


def test_progress_ends_with_every_line(tables: CodeTables, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", changed(1), "", "{")
    other = write(tmp_path / "test.jsonl", changed(1, narrative=LONG))
    told: list[tuple[int, int]] = []
    check_files(path, 1, [other], Limits(), tables, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_lengths_are_spread_over_bars() -> None:
    from collections import Counter

    lengths = lengths_of(Counter({5: 3, 7: 1}))
    assert lengths is not None
    assert (lengths.mean, lengths.median, lengths.p95, lengths.largest, lengths.width) == (5.5, 5, 7, 7, 1)
    assert lengths.bins == (Bin(start=5, lines=3), Bin(start=6, lines=0), Bin(start=7, lines=1))
    wide = lengths_of(Counter(range(13, 200)))
    assert wide is not None
    assert (wide.width, wide.bins[0].start, len(wide.bins)) == (10, 10, 19)
    assert sum(one.lines for one in wide.bins) == 187
    assert lengths_of(Counter()) is None


def broken_files(folder: Path) -> tuple[Path, Path]:
    """Return a file of stage 1 that has every kind of problem but those of other stages, and one to hold it against."""
    lines = [json.dumps(line) for stage, line, _ in ONE_LINE if stage == 1]
    meta = changed(1, metadata={"code_type": "SNOMED"})
    held = changed(1, narrative=LONG, metadata={"group": "g"})
    train = folder / "train.jsonl"
    train.write_bytes(b'"\xe9"\n' + "\n".join([*lines, "{", "{}", json.dumps(meta), json.dumps(held)]).encode() + b"\n")
    return train, write(folder / "test.jsonl", held, changed(1), "{")


def test_every_rule_is_broken_by_a_test(tables: CodeTables, tmp_path: Path) -> None:
    kinds = {kind for _, _, expected in ONE_LINE for kind in expected}
    train, test = broken_files(tmp_path)
    reports = [checked(tables, train, 1, test), checked(tables, write(tmp_path / "empty.jsonl"), 1)]
    kinds |= {problem.kind for report in reports for problem in report.problems}
    # Seen above: test_repeated_narratives_are_told_apart, test_nothing_may_stand…, test_balance_is_counted.
    assert set(rules()) - kinds == {"near_leak", "near_duplicate", "contradiction", "same_narrative"} - kinds
    assert {rule.group for rule in rules().values()} == set(rule_book().groups)
    with pytest.raises(KeyError):
        severity("no_such_kind")


SECRET = "zebra"


def test_no_text_of_a_narrative_is_told(tables: CodeTables, tmp_path: Path) -> None:
    train, test = broken_files(tmp_path)
    with train.open("a") as file:
        for line in (
            changed(1, answer="ICD10: ZEBRA9KEEPERWITHCOUGH"),
            changed(1, answer="ICD10: zebra"),
            changed(1, metadata={"code": "zebra keeper"}),
            changed(1, zebra="Zebra keeper"),
            changed(1, metadata={"group": "zebra"}),
            changed(1, metadata={"source": "zebra keeper, productive cough"}),
        ):
            file.write(json.dumps(line) + "\n")
    report = checked(tables, train, 1, test)
    assert SECRET not in report.model_dump_json().lower()
    assert SECRET not in quality_page(report).lower()


def test_what_is_longer_than_a_code_is_not_named_as_one(tables: CodeTables, tmp_path: Path) -> None:
    numbers = ["5551234567", "123456789", "12041956", "E11.999999"]  # telephone, record, date of birth
    lines = [changed(1, answer=f"ICD10: {number}", metadata={"code": number}) for number in numbers]
    told = checked(tables, write(tmp_path / "train.jsonl", *lines), 1).model_dump_json()
    assert not [number for number in numbers if number in told]


def test_sources_are_counted_in_full_and_few_are_named(tables: CodeTables, tmp_path: Path) -> None:
    lines = [changed(1, metadata={"source": f"clinic-{number % 30}"}) for number in range(60)]
    report = checked(tables, write(tmp_path / "train.jsonl", *lines), 1)
    assert sum(report.sources.values()) == report.readable == 60
    assert len(report.sources) == 21
    assert report.sources["(others)"] == 20


def test_reasoning_without_white_space_is_not_one_word(tables: CodeTables, tmp_path: Path) -> None:
    answer = reasoned(POINTS[0], "clear chest film," + ",x" * 3000)
    report = checked(tables, write(tmp_path / "train.jsonl", changed(2, answer=answer)), 2)
    assert "reasoning_too_long" in found_in(report)


def test_unseen_characters_make_no_other_answer_and_hide_no_code(tables: CodeTables, tmp_path: Path) -> None:
    same = changed(3, rejected=answer_text([POINTS[0].replace("cough", "co\u200bugh"), POINTS[1]], BRONCHITIS))
    named = changed(3, narrative=NARRATIVE + " It is J2\u200b0.\uff19 again.")
    found = found_in(checked(tables, write(tmp_path / "train.jsonl", same, named), 3))
    assert [line for line, _ in found["chosen_equals_rejected"]] == [1]
    assert found["code_in_narrative"] == [(2, "J20.9")]


@pytest.mark.parametrize("flag", ["--report", "--json"])
def test_nothing_that_is_read_is_written_over(flag: str, tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", changed(1)), write(tmp_path / "test.jsonl", changed(2))
    (tmp_path / "link.jsonl").symlink_to(train)
    before = train.read_bytes(), test.read_bytes()
    for target in (train, test, tmp_path / "link.jsonl", tmp_path):
        assert isinstance(run(train, "--against", test, flag, target).exception, MedcodeError)
    assert isinstance(run(train, "--json", tmp_path / "q", "--report", tmp_path / "q").exception, MedcodeError)
    assert (train.read_bytes(), test.read_bytes()) == before


def test_the_page_is_well_formed_and_self_contained(tables: CodeTables, tmp_path: Path) -> None:
    train, test = broken_files(tmp_path)
    report = checked(tables, train, 1, test)
    page = quality_page(report)
    assert not re.search(r"<script|https?://|src=|@import|url\(", page)
    body = re.sub(r"<(meta[^>]*)>", r"<\1/>", page.removeprefix("<!DOCTYPE html>"))
    root = ElementTree.fromstring(body)
    rows = {row[0].text: row for row in root.iterfind(".//table[@class='problems']/tbody/tr")}
    assert list(rows) == [problem.kind for problem in report.problems]
    for problem in report.problems:
        assert rows[problem.kind][2].text == f"{problem.count:,}"
        assert len(rows[problem.kind].findall(".//li")) == len(problem.examples)
    # Of the bars the most frequent kind has the whole width.
    widths = [float(row.find(".//rect").get("width")) for row in rows.values()]  # type: ignore[union-attr,arg-type]
    most = max(problem.count for problem in report.problems)
    assert widths == [pytest.approx(100 * problem.count / most, abs=0.01) for problem in report.problems]


def test_an_empty_file_has_a_page(tables: CodeTables, tmp_path: Path) -> None:
    report = checked(tables, write(tmp_path / "empty.jsonl"), 2)
    assert [problem.kind for problem in report.problems] == ["no_lines"]
    assert "no_lines" in quality_page(report)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


def test_the_command_tells_what_is_wrong_and_ends_with_1(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", "{", *numbered(3, "J20.9"), changed(1, answer=NOT_VALID), "{")
    result = run(path, "--json", tmp_path / "report.json")
    assert result.exit_code == 1, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == f"{path}: stage 1, 6 lines, 3 with errors, 0 with warnings"
    assert "error 2 not_json lines 1, 6" in lines
    assert any(line.startswith("error 1 code_invalid line 5: E11.0 (header)") for line in lines)
    assert lines[lines.index("error 2 not_json lines 1, 6") + 1] == rules()["not_json"].way_out
    report = QualityReport.model_validate_json((tmp_path / "report.json").read_text())
    assert (report.lines, report.passed) == (6, False)
    assert (tmp_path / "train.jsonl.quality.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "report.json",
        "train.jsonl",
        "train.jsonl.quality.html",
    ]


def test_the_command_ends_with_0_on_a_good_file_and_finds_its_stage(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", changed(3))
    result = run(path, "--no-report", "--against", write(tmp_path / "t.jsonl", changed(1, narrative=LONG)))
    assert result.exit_code == 0, result.output
    assert "stage 3, 1 lines, 0 with errors, 0 with warnings" in result.stdout
    assert not list(tmp_path.glob("*.html"))


def test_the_command_takes_another_limit_and_another_place_for_its_report(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", changed(2))
    result = run(path, "--max-reasoning-words", 8, "--report", tmp_path / "q.html")
    assert result.exit_code == 1
    assert "reasoning_too_long" in result.stdout
    assert "words: 10, allowed 8" in (tmp_path / "q.html").read_text()
    result = run(path, "--stage", 1, "--no-report")
    assert result.exit_code == 1
    assert "it looks like a line of stage 2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["train.jsonl", "--stage", "4"], "stage 4 is unknown"),
        (["other.jsonl"], "no line tells of which stage"),
        (["train.jsonl", "--against", "none.jsonl"], "none.jsonl: cannot be read"),
        (["."], "no file"),
        (["empty.jsonl"], "empty.jsonl: has no lines"),
        (["train.jsonl", "--report", "no/such/folder/q.html"], "--report"),
        (["train.jsonl", "--cpt-descriptions", "none.csv", "--no-report"], "none.csv"),
    ],
)
def test_a_mistake_of_the_users_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", changed(1))
    write(tmp_path / "other.jsonl", '{"text": "zebra"}')
    (tmp_path / "empty.jsonl").touch()
    error = run(*arguments).exception
    assert isinstance(error, MedcodeError)  # which `medcode` ends with 2 for
    assert says in str(error)
    assert len(str(error).splitlines()) == 1
