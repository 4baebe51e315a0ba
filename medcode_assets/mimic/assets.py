"""Dagster assets of the MIMIC room: a raw table each, cohort, facts, splits."""

import dagster as dg

from medcode_assets.config import DataSettings, Settings
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import table_metadata
from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import find_files, registered, table_specs
from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits, split_hash
from medcode_assets.partitions import MIMIC_VERSIONS
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse

RAW_TABLES = tuple(table_specs("mimic-iv"))
"""Every release is read into tables of these names, so that one graph serves all."""


def mimic_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets of this room; the settings are the launchpad's defaults."""
    raw = [_raw_table(table, settings) for table in RAW_TABLES]
    return [*raw, _cohort(settings), _facts(settings), _splits(settings)]


def _raw_table(table: str, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["raw", table],
        group_name="raw",
        partitions_def=MIMIC_VERSIONS,
        kinds={"csv", "duckdb"},
        code_version="1",
        description=f"MIMIC's table `{table_specs('mimic-iv')[table].file}` (or MIMIC-III's "
        f"`{table_specs('mimic-iii')[table].file}`) with declared types; reloaded when the file's sha256 changes.",
    )
    @launched_with("raw", settings)
    def raw_table(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        version = registered(home.path, context.partition_key)
        path = find_files(version)[table]
        with warehouse.connect(context.partition_key) as con:
            spec = table_specs(version.release)[table]
            built = load_table(con, spec, path, drop_existing=config.drop_existing)
            return dg.MaterializeResult(
                metadata={
                    **table_metadata(con, built),
                    "source": dg.MetadataValue.path(path),
                    "release": version.release,
                },
                data_version=dg.DataVersion(built.fingerprint),
            )

    return raw_table


def _cohort(settings: Settings) -> dg.AssetsDefinition:

    @dg.asset(
        key=["mimic", "cohort"],
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["raw", table] for table in RAW_TABLES],
        kinds={"duckdb", "sql"},
        code_version="1",
    )
    @launched_with("cohort", settings)
    def cohort(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Patients, those with a discharge note first, at most `data.num_samples` of them."""
        release = registered(home.path, context.partition_key).release
        with warehouse.connect(context.partition_key) as con:
            built = build_cohort(con, release, read(config, "data", DataSettings), rebuild=config.drop_existing)
            preview = (
                "SELECT gender, count(*) AS patients, count(*) FILTER (discharge_notes > 0) AS with_discharge_note, "
                "sum(discharge_notes) AS discharge_notes FROM cohort GROUP BY gender ORDER BY gender"
            )
            return dg.MaterializeResult(
                metadata=table_metadata(con, built, preview), data_version=dg.DataVersion(built.fingerprint)
            )

    return cohort


def _facts(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["mimic", "facts"],
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["mimic", "cohort"]],
        kinds={"duckdb", "sql"},
        code_version="1",
    )
    @launched_with("facts", settings)
    def facts(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """One row an admission: patient, text of its discharge notes, codes with system and rank."""
        with warehouse.connect(context.partition_key) as con:
            built = build_facts(con, rebuild=config.drop_existing)
            preview = (
                "SELECT coded.system, count(*) AS codes, count(DISTINCT coded.code) AS distinct_codes, "
                "count(DISTINCT hadm_id) AS admissions "
                "FROM facts, LATERAL (SELECT unnest(codes, max_depth := 2)) AS coded GROUP BY 1 ORDER BY 1"
            )
            return dg.MaterializeResult(
                metadata=table_metadata(con, built, preview), data_version=dg.DataVersion(built.fingerprint)
            )

    return facts


def _splits(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["mimic", "splits"],
        group_name="mimic",
        partitions_def=MIMIC_VERSIONS,
        deps=[["mimic", "facts"]],
        kinds={"duckdb", "sql"},
        code_version="1",
        check_specs=[
            dg.AssetCheckSpec(
                "no_patient_in_two_splits",
                asset=dg.AssetKey(["mimic", "splits"]),
                blocking=True,
                description="A patient on both sides would let the model recognise, not read.",
            )
        ],
    )
    @launched_with("splits", settings)
    def splits(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Patients to train, validation and test, 80/10/10 by `data.seed`."""
        with warehouse.connect(context.partition_key) as con:
            built = build_splits(con, read(config, "data", DataSettings), rebuild=config.drop_existing)
            preview = (
                "SELECT split, count(DISTINCT subject_id) AS patients, count(hadm_id) AS admissions "
                "FROM splits JOIN facts USING (subject_id) GROUP BY split ORDER BY admissions DESC"
            )
            twice = con.execute(
                "SELECT count(*) FROM (SELECT subject_id FROM splits GROUP BY subject_id HAVING count(*) > 1)"
            ).fetchall()[0][0]
            return dg.MaterializeResult(
                metadata={**table_metadata(con, built, preview), "split_hash": split_hash(con)},
                data_version=dg.DataVersion(built.fingerprint),
                check_results=[dg.AssetCheckResult(passed=twice == 0, metadata={"patients": twice})],
            )

    return splits
