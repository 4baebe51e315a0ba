"""Facts to examples: which codes are asked, and what the answer to each note is."""

from importlib import resources
from typing import TYPE_CHECKING

from medcode_assets.config import DataSettings
from medcode_assets.warehouse import Built, Source, built, fingerprint, inputs, write_table
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

SPLITS = ("train", "validation", "test")


def sql(name: str) -> str:
    """Return the text of sql/<name>.sql."""
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text()


def build_examples(con: "duckdb.DuckDBPyConnection", settings: DataSettings, rebuild: bool = False) -> Built:
    """Make `icd.labels` (the codes of the task), `icd.examples`, and the views `icd.notes` and `icd.dictionary`.

    Raises:
        MedcodeError: a split has no example, because no admission there has a code of the task.
    """
    con.execute("CREATE SCHEMA IF NOT EXISTS icd")
    parameters = {
        "systems": list(settings.systems),
        "min_frequency": settings.min_frequency,
        "frequency_over": settings.frequency_over,
        "top_codes": settings.top_codes,
    }
    made_from = fingerprint(
        labels=sql("labels"),
        examples=sql("examples"),
        parameters=parameters,
        inputs=inputs(con, "facts", "splits"),
    )
    _create_dictionary(con, settings)
    earlier = built(con, "icd.examples")
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    def create() -> None:
        # In one transaction: examples point into labels by number.
        con.execute(f"CREATE OR REPLACE TABLE icd.labels AS {sql('labels')}", parameters)
        con.execute(f"CREATE OR REPLACE TABLE icd.examples AS {sql('examples')}")
        con.execute("CREATE OR REPLACE VIEW icd.notes AS SELECT hadm_id AS example_id, text AS note FROM documents")

    return write_table(
        con,
        "icd.examples",
        Source(made_from, parameters),
        create,
        check=lambda _: _refuse_empty_split(con, settings),
    )


def _create_dictionary(con: "duckdb.DuckDBPyConnection", settings: DataSettings) -> None:
    """Lay the view `icd.dictionary` over the release's titles. A view takes no parameters; these are settings."""
    systems = ", ".join(f"'{system}'" for system in settings.systems)
    closed = settings.min_frequency > 0 or settings.top_codes > 0
    con.execute(sql("dictionary").format(systems=systems, open="false" if closed else "true"))


def _refuse_empty_split(con: "duckdb.DuckDBPyConnection", settings: DataSettings) -> None:
    counts = dict(con.execute("SELECT split, count(*) FROM icd.examples GROUP BY split").fetchall())
    for split in SPLITS:
        if not counts.get(split):
            raise MedcodeError(
                f"table icd.examples: no {split} admission has a code of {', '.join(settings.systems)} "
                f"(min_frequency {settings.min_frequency}); raise --num-patients or lower data.min_frequency"
            )
