"""What a person at a command line sees of a run."""

import re

import dagster as dg
import pytest

from medcode_assets.terminal import terminal_logger


@dg.asset(check_specs=[dg.AssetCheckSpec("codes_well_formed", asset="facts"), dg.AssetCheckSpec("fine", asset="facts")])
def facts() -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata={"dagster/row_count": 718},
        check_results=[
            dg.AssetCheckResult(
                check_name="codes_well_formed",
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"wrong": 1204, "of": 10346, "share": 0.11637, "reason": "7 notes are empty"},
            ),
            dg.AssetCheckResult(check_name="fine", passed=True),
        ],
    )


def test_an_asset_is_a_line_and_a_failed_check_another(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.Definitions(
        assets=[facts], jobs=[dg.define_asset_job("all")], loggers={"terminal": terminal_logger}
    ).resolve_job_def("all")
    result = job.execute_in_process(run_config={"loggers": {"terminal": {"config": {"level": "WARNING"}}}})
    assert result.success
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 2
    assert re.fullmatch(r"facts \d+\.\d s 718 rows", lines[0])
    assert lines[1] == "warn: check codes_well_formed of facts: wrong 1,204, of 10,346, share 0.116, 7 notes are empty"
