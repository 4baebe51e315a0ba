"""Dagster assets of the MIMIC room: a raw table each, cohort, facts, splits; their checks come from checks.yaml."""

from pathlib import Path

import dagster as dg

from medcode_assets.config import DataSettings, Settings
from medcode_assets.evaluation.plots import code_frequencies
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import picture, table_metadata
from medcode_assets.mimic.checks import Outcome, checks_of, run_checks
from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import (
    FAMILIES,
    find_files,
    known_version,
    published_sha256,
    release_spec,
    stat_signature,
    table_specs,
)
from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits, split_hash
from medcode_assets.mimic.versions import registered
from medcode_assets.partitions import MIMIC_VERSIONS, check_each_version
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.warehouse import record_of

RAW_TABLES = tuple(table_specs("mimic-iv"))
"""Every release is read into tables of these names, so that one graph serves all."""
RAW_SPECS = {
    table: {release_spec(family).title: table_specs(family)[table] for family in FAMILIES} for table in RAW_TABLES
}
RELEASE_SIGNATURE = "release_signature"
"""Metadata of raw tables: size and time of change of all files of the release (`medcode_assets.automation`)."""


def mimic_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets of this room; the settings are the launchpad's defaults."""
    raw = [_raw_table(table, settings) for table in RAW_TABLES]
    return [*raw, _cohort(settings), _facts(settings), _splits(settings)]


def _raw_table(table: str, settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey(["raw", table])

    @dg.asset(
        key=key,
        group_name="raw",
        partitions_def=MIMIC_VERSIONS,
        kinds={"csv", "duckdb"},
        code_version="2",
        description=_raw_description(table),
        check_specs=[
            check_each_version(key, "expected_rows", "As many rows as the release is known to have."),
            check_each_version(key, "checksum", "The file is the one of PhysioNet's SHA256SUMS.txt."),
        ],
    )
    @launched_with("raw", settings)
    def raw_table(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        version = registered(home.path, context.partition_key)
        files = find_files(version)
        path = files.get(table)
        spec = table_specs(version.release)[table]
        with warehouse.connect(context) as con:
            built = load_table(con, spec, path, drop_existing=config.drop_existing)
            metadata = table_metadata(con, built)
            sha256 = record_of(con, f"raw.{table}")["sha256"]
        return dg.MaterializeResult(
            metadata={
                **metadata,
                "source": dg.MetadataValue.path(path) if path else "not in this folder, left empty",
                "release": version.release,
                RELEASE_SIGNATURE: stat_signature(files),
            },
            data_version=dg.DataVersion(built.fingerprint),
            check_results=[
                _expected_rows(spec.rows.get(known_version(version, path) or "", ()) if path else (), built.rows),
                _checksum(published_sha256(path, Path(version.directory)) if path else None, sha256),
            ],
        )

    return raw_table


def _raw_description(table: str) -> str:
    names = [f"{title}'s `{spec.file}`" for title, spec in RAW_SPECS[table].items() if spec.file]
    return f"{' or '.join(names)} with declared types; reloaded when the file's sha256 changes."


def _expected_rows(expected: tuple[int, ...], rows: int) -> dg.AssetCheckResult:
    if not expected:
        return dg.AssetCheckResult(
            passed=True, check_name="expected_rows", metadata={"rows": rows, "expected": "unknown"}
        )
    return dg.AssetCheckResult(
        passed=rows in expected,
        check_name="expected_rows",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rows": rows, "expected": " or ".join(map(str, expected)), "difference": rows - expected[0]},
    )


def _checksum(published: str | None, sha256: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=published in (None, sha256),
        check_name="checksum",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sha256": sha256, "published": published or "not listed"},
    )


def _cohort(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey(["mimic", "cohort"])

    @dg.asset(
        key=key,
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["raw", table] for table in RAW_TABLES],
        kinds={"duckdb", "sql"},
        code_version="2",
        check_specs=_check_specs(key),
    )
    @launched_with("cohort", settings)
    def cohort(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Patients, those with a discharge note first, at most `data.num_patients` of them."""
        release = registered(home.path, context.partition_key).release
        data = read(config, "data", DataSettings)
        with warehouse.connect(context) as con:
            built = build_cohort(con, release, data, rebuild=config.drop_existing)
            preview = (
                "SELECT gender, count(*) AS patients, count(*) FILTER (discharge_notes > 0) AS with_discharge_note, "
                "sum(discharge_notes) AS discharge_notes FROM cohort GROUP BY gender ORDER BY gender"
            )
            return dg.MaterializeResult(
                metadata=table_metadata(con, built, preview),
                data_version=dg.DataVersion(built.fingerprint),
                check_results=_check_results(run_checks(con, key.to_user_string(), data)),
            )

    return cohort


def _facts(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey(["mimic", "facts"])

    @dg.asset(
        key=key,
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["mimic", "cohort"]],
        kinds={"duckdb", "sql"},
        code_version="2",
        check_specs=_check_specs(key),
    )
    @launched_with("facts", settings)
    def facts(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """One row an admission: patient, number of notes, codes with system and rank; view `documents` has the text."""
        with warehouse.connect(context) as con:
            built = build_facts(con, rebuild=config.drop_existing)
            preview = (
                "SELECT system, sum(admissions) AS codes, count(*) AS distinct_codes, "
                "max(admissions) AS most_frequent, count(*) FILTER (admissions < 10) AS in_fewer_than_10 "
                "FROM code_counts GROUP BY system ORDER BY system"
            )
            frequencies = con.execute(
                "SELECT system, list(admissions ORDER BY admissions DESC) FROM code_counts "
                "GROUP BY system ORDER BY system"
            ).fetchall()
            return dg.MaterializeResult(
                metadata={
                    **table_metadata(con, built, preview),
                    "code_frequencies": picture(code_frequencies(dict(frequencies)), "admissions by rank of the code"),
                },
                data_version=dg.DataVersion(built.fingerprint),
                check_results=_check_results(run_checks(con, key.to_user_string(), DataSettings())),
            )

    return facts


def _splits(settings: Settings) -> dg.AssetsDefinition:
    key = dg.AssetKey(["mimic", "splits"])

    @dg.asset(
        key=key,
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["mimic", "facts"]],
        kinds={"duckdb", "sql"},
        code_version="2",
        check_specs=_check_specs(key),
    )
    @launched_with("splits", settings)
    def splits(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Admissions to train, validation and test, by patient: 80/10/10 by `data.seed`, or as a split file says."""
        data = read(config, "data", DataSettings)
        with warehouse.connect(context) as con:
            built = build_splits(con, data, rebuild=config.drop_existing)
            preview = (
                "SELECT split, count(DISTINCT splits.subject_id) AS patients, count(*) AS admissions, "
                "avg(len(codes)) AS codes_per_admission FROM splits JOIN facts USING (hadm_id) "
                "GROUP BY split ORDER BY admissions DESC"
            )
            return dg.MaterializeResult(
                metadata={
                    **table_metadata(con, built, preview),
                    "split_method": data.split_method,
                    "split_hash": split_hash(con),
                },
                data_version=dg.DataVersion(built.fingerprint),
                check_results=_check_results(run_checks(con, key.to_user_string(), data)),
            )

    return splits


def _check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return [
        check_each_version(key, check.name, check.description, blocking=check.block_above is not None)
        for check in checks_of(key.to_user_string())
    ]


def _check_results(outcomes: list[Outcome]) -> list[dg.AssetCheckResult]:
    severities = {True: dg.AssetCheckSeverity.ERROR, False: dg.AssetCheckSeverity.WARN}
    return [
        dg.AssetCheckResult(
            passed=outcome.passed,
            check_name=outcome.check.name,
            severity=severities[outcome.blocks],
            metadata={"wrong": outcome.wrong, "of": outcome.of, "share": outcome.share},
        )
        for outcome in outcomes
    ]
