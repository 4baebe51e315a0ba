"""`medcode codes check`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medcode_assets.cli import app
from medcode_serving.errors import MedcodeError


def check(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["codes", "check", *map(str, arguments)], input=stdin)


def test_valid_codes_are_a_line_each() -> None:
    done = check("e119", "I10", "--type", "icd10")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "E11.9  valid  Type 2 diabetes mellitus without complications (in ICD-10-CM of April 2026)",
        "I10  valid  Essential (primary) hypertension (in ICD-10-CM of April 2026)",
    ]


def test_one_code_that_is_not_valid_fails_and_says_why() -> None:
    done = check("E11.9", "a04.7", "E11.99", "--type", "ICD10")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("E11.9  valid  ")
    assert lines[1] == (
        "a04.7  retired  billable once, and divided further in ICD-10-CM of April 2026 "
        "(Enterocolitis due to Clostridium difficile); did you mean A04.71, A04.72?"
    )
    assert lines[2].startswith("E11.99  unknown  not in ICD-10-CM of April 2026; did you mean E11.9, ")


def test_a_format_alone_is_enough() -> None:
    done = check("99213", "--type", "cpt")
    assert done.exit_code == 0
    assert done.stdout.startswith("99213  format only  well-formed, not looked up")


def test_codes_of_a_file_come_behind_those_named(tmp_path: Path) -> None:
    file = tmp_path / "codes.txt"
    file.write_bytes("\ufeffI10\r\n\r\n  401.9\n\x1b[31m\n".encode())
    done = check("E11.9", "--type", "icd10", "--file", file, "--json")
    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(code["given"], code["status"], code["valid"]) for code in found] == [
        ("E11.9", "valid", True),
        ("I10", "valid", True),
        ("  401.9", "wrong_system", False),
        ("\x1b[31m", "malformed", False),
    ]
    assert found[2]["suggestions"] == [
        {"system": "icd9cm", "code": "401.9", "description": "Unspecified essential hypertension"}
    ]
    assert "\x1b" not in check("--type", "icd10", "--file", file).stdout, "nothing that moves a terminal's cursor"
    assert check("--type", "icd10", "--file", "-", stdin=b"I10\n").exit_code == 0


def test_a_users_lists_are_used(tmp_path: Path) -> None:
    cpt = tmp_path / "cpt.csv"
    cpt.write_text("code,description\n99213,Made up visit\n")
    done = check("99213", "99231", "--type", "cpt", "--cpt-descriptions", cpt)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"99213  valid  Made up visit (in {cpt})",
        f"99231  unknown  not in {cpt}; did you mean 99213?",
    ]
    assert check("E0130", "--type", "hcpcs", "--hcpcs", cpt).exit_code == 1, "CPT codes are no HCPCS Level II"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["E11.9", "--type", "icd11"], "unknown code type 'icd11'; known are icd10, "),
        (["--type", "icd10"], "no codes"),
        (["--type", "icd10", "--file", "nowhere.txt"], "nowhere.txt"),
        (["99213", "--type", "cpt", "--cpt-descriptions", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: list[str], message: str) -> None:
    done = check(*arguments)
    assert isinstance(done.exception, MedcodeError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert done.stdout == ""


def test_the_command_ends_with_2_at_a_users_mistake() -> None:
    command = [sys.executable, "-m", "medcode_assets", "codes", "check", "E11.9", "--type", "icd11"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("medcode: unknown code type 'icd11'")
