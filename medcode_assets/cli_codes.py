"""The commands `medcode codes`: they need no more than `pip install medcode` installs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medcode_serving.errors import MedcodeError

app = typer.Typer(no_args_is_help=True, help="Medical codes: whether they may be billed, and what was meant if not.")

NOT_VALID = 1
"""Exit code where a code is not valid."""


@app.callback()
def _codes() -> None:
    """Keep `check` a command of its own."""


@app.command()
def check(
    type_: Annotated[
        str,
        typer.Option(
            "--type", help="icd10, icd10pcs, icd9 (diagnosis or procedure), icd9cm, icd9pcs, hcpcs or cpt; in any case."
        ),
    ],
    codes: Annotated[list[str] | None, typer.Argument(help="The codes, with or without their dots.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Further codes, one a line; - is standard input.")] = None,
    cpt_descriptions: Annotated[
        Path | None,
        typer.Option("--cpt-descriptions", help="Your licensed CPT list: a CSV with the columns code and description."),
    ] = None,
    hcpcs: Annotated[
        Path | None, typer.Option("--hcpcs", help="The whole list of HCPCS Level II, in the same form.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON object a code.")] = False,
) -> None:
    """Look codes up in the shipped tables, a line each; exit code 1 if one of them is not valid."""
    from medcode_assets.codes_command import check_codes

    given = [*(codes or []), *(_lines(file) if file else [])]
    if not given:
        raise MedcodeError("codes check: no codes; name some, or a file of them with --file")
    if not check_codes(given, type_, cpt_descriptions=cpt_descriptions, hcpcs=hcpcs, as_json=json_):
        raise typer.Exit(NOT_VALID)


def _lines(file: Path) -> list[str]:
    try:
        contents = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = contents.decode("utf-8-sig")
    except OSError as error:
        raise MedcodeError(f"{file}: {error.strerror}; name a file with one code a line") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{file}: not a text file in UTF-8; save it as UTF-8, one code a line") from None
    return [line for line in text.splitlines() if line.strip()]
