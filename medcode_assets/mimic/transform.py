"""Raw tables to cohort, facts and splits: each step one SELECT in sql/, made only when something changed."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.config import DataSettings
from medcode_assets.mimic.published_splits import load_published_splits
from medcode_assets.mimic.sources import split_release, table_specs
from medcode_assets.warehouse import Built, Source, build_table, built, fingerprint, inputs, one_value, write_table
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

FEWEST_PATIENTS = 10
"""Below this, 80/10/10 leaves a split empty."""


def sql(name: str) -> str:
    """Return the text of sql/<name>.sql."""
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text()


def create_views(con: "duckdb.DuckDBPyConnection", release: str) -> str:
    """Lay the release's views (discharge_notes, diagnoses, procedures, billed, coded, titles) over its raw tables.

    Returns:
        Their SQL, for fingerprints.
    """
    views = sql("macros") + sql(f"{split_release(release)[0]}-views") + sql("codes-views")
    con.execute(views)
    return views


def build_cohort(
    con: "duckdb.DuckDBPyConnection", release: str, settings: DataSettings, *, rebuild: bool = False
) -> Built:
    """Choose the patients: table `cohort` (subject_id, gender, discharge_notes)."""
    made_from = inputs(con, *(f"raw.{table}" for table in table_specs(release)))
    parameters = {"seed": str(settings.seed), "num_patients": settings.num_patients}
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
    """Collect what is known of each admission: table `facts` (subject_id, hadm_id, notes, characters, codes).

    `codes` are numbers of table `codes` (code_id, system, code, bare, description). To be read through the views
    `documents` (subject_id, hadm_id, text), `admission_codes` (hadm_id, codes written out) and `code_counts`.

    Raises:
        MedcodeError: no admission of the cohort has a discharge note.
    """

    def create() -> None:
        con.execute("SET force_compression = 'auto'")
        con.execute(f"CREATE OR REPLACE TABLE codes AS {sql('codes')}")
        con.execute(f"CREATE OR REPLACE TABLE facts AS {sql('facts')}")
        con.execute(sql("facts-views"))

    def refuse_none(rows: int) -> None:
        if not rows:
            raise MedcodeError("table facts: no admission of the cohort has a discharge note; check raw.notes")

    queries = [sql(name) for name in ("codes", "facts", "facts-views")]
    made_from = fingerprint(sql=queries, inputs=inputs(con, "cohort"))
    earlier = built(con, "facts")
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier
    return write_table(con, "facts", Source(made_from), create, check=refuse_none)


def build_splits(con: "duckdb.DuckDBPyConnection", settings: DataSettings, *, rebuild: bool = False) -> Built:
    """Assign admissions to splits, by patient: table `splits` (subject_id, hadm_id, split).

    Views `train`, `validation` and `test` (subject_id, hadm_id, text, codes) are each split's full dataset.

    Raises:
        MedcodeError: too few patients for three splits, or the split file cannot be read or names nobody here.
    """

    def refuse_few(_: int) -> None:
        patients = one_value(con, "SELECT count(DISTINCT subject_id) FROM splits")
        if settings.split_file is not None and not patients:
            raise MedcodeError(f"{settings.split_file}: names no admission of this version; is it of another release?")
        if patients < FEWEST_PATIENTS:
            raise MedcodeError(
                f"table splits: {patients} patients with notes, at least {FEWEST_PATIENTS} are needed for 80/10/10; "
                "raise --num-patients"
            )

    query = sql(f"splits-{settings.split_method}")
    parameters = {"seed": str(settings.seed)} if "$seed" in query else {}
    published = None
    if settings.split_file is not None:
        published = load_published_splits(con, Path(settings.split_file).expanduser())
    made_from = fingerprint(sql=query, parameters=parameters, published=published, inputs=inputs(con, "facts"))
    made = build_table(
        con,
        "splits",
        query,
        made_from,
        parameters=parameters,
        recorded={"split_method": settings.split_method, "split_file": settings.split_file, **parameters},
        check=refuse_few,
        rebuild=rebuild,
    )
    con.execute(sql("splits-views"))
    return made


def split_hash(con: "duckdb.DuckDBPyConnection") -> str:
    """Return the sha256 over the sorted (patient, split) pairs, as `subject_id:split` lines."""
    pairs = "SELECT DISTINCT subject_id, split FROM splits"
    return str(
        one_value(
            con,
            f"SELECT sha256(string_agg(subject_id || ':' || split, chr(10) ORDER BY subject_id, split)) FROM ({pairs})",
        )
    )
