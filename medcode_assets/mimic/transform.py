"""Raw tables to cohort, facts and splits: each step one SELECT in sql/, made only when something changed."""

from importlib import resources
from typing import TYPE_CHECKING

from medcode_assets.config import DataSettings
from medcode_assets.mimic.sources import table_specs
from medcode_assets.warehouse import Built, build_table, fingerprint, inputs, one_value
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

FEWEST_PATIENTS = 10
"""Below this, 80/10/10 leaves a split empty."""


def sql(name: str) -> str:
    """Return the text of sql/<name>.sql."""
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text()


def create_views(con: "duckdb.DuckDBPyConnection", release: str) -> str:
    """Lay the release's views (discharge_notes, coded, titles) over its raw tables; return their SQL."""
    views = sql("macros") + sql(f"{release}-views")
    con.execute(views)
    return views


def build_cohort(
    con: "duckdb.DuckDBPyConnection", release: str, settings: DataSettings, *, rebuild: bool = False
) -> Built:
    """Choose the patients: table `cohort` (subject_id, gender, discharge_notes)."""
    made_from = inputs(con, *(f"raw.{table}" for table in table_specs(release)))
    parameters = {"seed": str(settings.seed), "num_samples": settings.num_samples}
    views = create_views(con, release)
    return build_table(
        con,
        "cohort",
        sql("cohort"),
        fingerprint(sql=sql("cohort"), views=views, parameters=parameters, inputs=made_from),
        parameters=parameters,
        rebuild=rebuild,
    )


def build_facts(con: "duckdb.DuckDBPyConnection", *, rebuild: bool = False) -> Built:
    """Collect text and codes of each admission: table `facts` (subject_id, hadm_id, notes, text, codes).

    Raises:
        MedcodeError: no admission of the cohort has a discharge note.
    """

    def refuse_none(rows: int) -> None:
        if not rows:
            raise MedcodeError("table facts: no admission of the cohort has a discharge note; check raw.notes")

    made_from = fingerprint(sql=sql("facts"), inputs=inputs(con, "cohort"))
    return build_table(con, "facts", sql("facts"), made_from, compression="zstd", check=refuse_none, rebuild=rebuild)


def build_splits(con: "duckdb.DuckDBPyConnection", settings: DataSettings, *, rebuild: bool = False) -> Built:
    """Assign patients to splits: table `splits` (subject_id, split).

    Raises:
        MedcodeError: too few patients for three splits.
    """

    def refuse_few(rows: int) -> None:
        if rows < FEWEST_PATIENTS:
            raise MedcodeError(
                f"table splits: {rows} patients with notes, at least {FEWEST_PATIENTS} are needed for 80/10/10; "
                "raise --num-samples"
            )

    parameters = {"seed": str(settings.seed)}
    made_from = fingerprint(sql=sql("splits"), parameters=parameters, inputs=inputs(con, "facts"))
    return build_table(
        con, "splits", sql("splits"), made_from, parameters=parameters, check=refuse_few, rebuild=rebuild
    )


def split_hash(con: "duckdb.DuckDBPyConnection") -> str:
    """Return the sha256 over the sorted (patient, split) pairs, as `subject_id:split` lines."""
    return str(
        one_value(con, "SELECT sha256(string_agg(subject_id || ':' || split, chr(10) ORDER BY subject_id)) FROM splits")
    )
