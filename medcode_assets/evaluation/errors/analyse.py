"""From predictions to errors: which codes were missed or invented, and what these have in common.

The work is in sql/, over temporary tables of the warehouse's connection; what is kept there for drilling down is
`<recipe>.errors` and `<recipe>.error_documents`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.errors.findings import find
from medcode_assets.evaluation.errors.model import (
    NEAR_MISSES,
    CodeErrors,
    ErrorAnalysis,
    NearMiss,
    NearMissExample,
    SectionRecall,
    Slice,
    Totals,
    micro_f1,
)
from medcode_assets.evaluation.errors.sections import title_words, words, words_by_section
from medcode_assets.warehouse import Source, fingerprint, inputs, one_value, second_cursor, write_table
from medcode_serving.codes.hierarchy import category
from medcode_serving.codes.systems import SYSTEMS, undotted
from medcode_serving.errors import MedcodeError
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST_CODES = 50
"""Codes listed as most missed, and as most spurious."""

MOST_EXAMPLES = 20
"""Pairs of codes listed of each kind of near miss."""

LEAST_OF_TITLE = 0.5
"""Weight of a title's words that a section must have to name the code."""


def analyse_errors(con: "duckdb.DuckDBPyConnection", recipe: str, predictions: "pa.Table") -> ErrorAnalysis:
    """Analyse one engine's errors, and make `<recipe>.errors` and `<recipe>.error_documents` anew.

    A missed code is paired with at most one spurious code of its document, system and category, the most alike first
    (characters that are equal at their places, then the order of `NEAR_MISSES`).

    Args:
        con: Writing connection of the warehouse.
        recipe: Name of the recipe, which is its schema.
        predictions: One row a told code, as `predict_documents` has it: hadm_id, system, code, probability,
            truncated, dropped; and `kept`, whether the code is at or above the threshold. A document without codes
            has one row whose code is null.

    Raises:
        MedcodeError: there are no predictions, or they are of documents that the recipe does not have.
    """
    with _tables(con, recipe, predictions):
        _refuse_strangers(con, recipe)
        _pair_near_misses(con)
        _name_sections(con, recipe)
        _keep(con, recipe)
        return _summary(con)


def sql(name: str) -> str:
    """Return the text of sql/<name>.sql."""
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text()


def analysis_version() -> str:
    """Return a fingerprint of the queries and patterns: other ones analyse anew."""
    room = resources.files(__package__)
    files = sorted((*room.joinpath("sql").iterdir(), room / "patterns.yaml"), key=lambda file: file.name)
    return fingerprint(files={file.name: file.read_text() for file in files})


@contextmanager
def _tables(con: "duckdb.DuckDBPyConnection", recipe: str, predictions: "pa.Table") -> Iterator[None]:
    """Give the tables that the queries in sql/ read, all named `analysed_…`; they go when it is left."""
    con.register("analysed_answers", predictions)
    try:
        for table in ("labels", "examples", "tokens"):
            con.execute(f"CREATE OR REPLACE TEMP VIEW analysed_{table} AS FROM {recipe}.{table}")
        _make(con, "analysed_documents", sql("documents"))
        _make(con, "analysed_pairs", sql("pairs"))
        con.register("analysed_code_facts", _code_facts(con))
        _make(con, "analysed_codes", sql("codes"))
        yield
    finally:
        con.unregister("analysed_answers")
        con.unregister("analysed_code_facts")
        _drop_temporary(con)


def _drop_temporary(con: "duckdb.DuckDBPyConnection") -> None:
    for kind in ("table", "view"):
        names = con.execute(
            f"SELECT {kind}_name FROM duckdb_{kind}s() WHERE temporary AND starts_with({kind}_name, 'analysed_')"
        ).fetchall()
        for (name,) in names:
            con.execute(f"DROP {kind} temp.{name}")


def _make(con: "duckdb.DuckDBPyConnection", table: str, select: str, parameters: dict[str, Any] | None = None) -> None:
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {select}", parameters or {})


def _refuse_strangers(con: "duckdb.DuckDBPyConnection", recipe: str) -> None:
    documents = one_value(con, "SELECT count(*) FROM analysed_documents")
    if not documents:
        raise MedcodeError(f"recipe {recipe}: no predictions to analyse; make them: medcode evaluate")
    strangers = one_value(con, "SELECT count(*) FROM analysed_documents ANTI JOIN analysed_examples USING (example_id)")
    if strangers:
        raise MedcodeError(
            f"recipe {recipe}: {strangers} of {documents} predicted documents are not in {recipe}.examples; the "
            "examples have changed since; evaluate again: medcode evaluate"
        )


def _code_facts(con: "duckdb.DuckDBPyConnection") -> "pa.Table":
    """Return what SQL cannot know of each code that occurs: system, code, bare, category, valid, words, title_words."""
    import pyarrow as pa

    codes = con.sql(
        "SELECT system, code, description FROM (SELECT DISTINCT system, code FROM analysed_pairs) "
        "LEFT JOIN analysed_labels USING (system, code) ORDER BY system, code"
    ).to_arrow_table()
    rows = [
        {
            "system": row["system"],
            "code": row["code"],
            "bare": undotted(row["code"]),
            "category": category(row["system"], row["code"]) if row["system"] in SYSTEMS else undotted(row["code"]),
            "valid": row["system"] in SYSTEMS and bool(SYSTEMS[row["system"]].pattern.fullmatch(row["code"])),
            "words": words(row["description"] or ""),
            "title_words": title_words(row["description"]),
        }
        for row in codes.to_pylist()
    ]
    text, texts = pa.string(), pa.list_(pa.string())
    fields = {"system": text, "code": text, "bare": text, "category": text, "valid": pa.bool_()}
    return pa.Table.from_pylist(rows, pa.schema(fields | {"words": texts, "title_words": texts}))


def _pair_near_misses(con: "duckdb.DuckDBPyConnection") -> None:
    """Make `analysed_near_misses`: the best candidate of all first, which takes both its codes, then the next.

    A round takes every candidate that is the first of both its codes, in all documents at once; the order of its
    document's candidates has no ties, so each round takes some, and the pairs are those of one after the other.
    """
    _make(con, "analysed_candidates", sql("candidates"), {"patterns": list(NEAR_MISSES)})
    _make(con, "analysed_near_misses", f"{sql('matched')} LIMIT 0")
    while one_value(con, "SELECT count(*) FROM analysed_candidates"):
        con.execute(f"INSERT INTO analysed_near_misses {sql('matched')}")
        _make(con, "analysed_candidates", sql("candidates-left"))


def _name_sections(con: "duckdb.DuckDBPyConnection", recipe: str) -> None:
    """Make `analysed_named` (the section that names a gold code) and `analysed_lengths` (characters of each note)."""
    _make(con, "analysed_title_words", sql("title-words"))
    con.execute(
        "CREATE OR REPLACE TEMP TABLE analysed_named (example_id BIGINT, system VARCHAR, code VARCHAR, section VARCHAR)"
    )
    con.execute("CREATE OR REPLACE TEMP TABLE analysed_lengths (example_id BIGINT, characters BIGINT)")
    documents = con.sql("SELECT example_id FROM analysed_documents").to_arrow_table()
    vocabulary = [word for (word,) in con.execute("SELECT DISTINCT word FROM analysed_title_words").fetchall()]
    with second_cursor(con) as reader:
        for found, lengths in words_by_section(reader, recipe, documents, vocabulary):
            con.register("analysed_found", found)
            con.execute(f"INSERT INTO analysed_named {sql('sections-naming')}", {"least": LEAST_OF_TITLE})
            con.register("analysed_found", lengths)
            con.execute("INSERT INTO analysed_lengths FROM analysed_found")
            con.unregister("analysed_found")


def _keep(con: "duckdb.DuckDBPyConnection", recipe: str) -> None:
    """Write what people drill down in; the summary reads it from there."""
    made_from = fingerprint(
        # Of the answers themselves: a sum does not mind their order.
        answers=one_value(con, "SELECT sum(hash(answer)) FROM analysed_answers AS answer"),
        queries=[
            sql(name) for name in ("pairs", "codes", "candidates", "sections-naming", "errors", "error-documents")
        ],
        sections=sections_hash(),
        inputs=inputs(con, f"{recipe}.examples", f"{recipe}.tokens"),
    )
    for table in ("errors", "error_documents"):
        _write(con, recipe, table, made_from)
        con.execute(f"CREATE OR REPLACE TEMP VIEW analysed_{table} AS FROM {recipe}.{table}")


def _write(con: "duckdb.DuckDBPyConnection", recipe: str, table: str, made_from: str) -> None:
    def create() -> None:
        con.execute(f"CREATE OR REPLACE TABLE {recipe}.{table} AS {sql(table.replace('_', '-'))}")

    write_table(con, f"{recipe}.{table}", Source(made_from), create)


def _summary(con: "duckdb.DuckDBPyConnection") -> ErrorAnalysis:
    totals = Totals(**_rows(con, "totals")[0])
    missed, spurious = (
        tuple(CodeErrors(**row) for row in _rows(con, "code-errors", kind=kind, most=MOST_CODES))
        for kind in ("missed", "spurious")
    )
    analysis = ErrorAnalysis(
        totals=totals,
        missed=missed,
        spurious=spurious,
        near_misses=_near_misses(con, totals),
        slices=tuple(Slice(**row) for row in _rows(con, "slices")),
        sections=tuple(SectionRecall(**row) for row in _rows(con, "section-recall")),
        findings=(),
    )
    return analysis.model_copy(update={"findings": find(analysis)})


def _near_misses(con: "duckdb.DuckDBPyConnection", totals: Totals) -> tuple[NearMiss, ...]:
    rows = _rows(con, "near-misses", most=MOST_EXAMPLES)
    by_pattern = {name: list(group) for name, group in groupby(rows, key=lambda row: row["pattern"])}
    found = []
    for pattern in NEAR_MISSES:
        examples = by_pattern.get(pattern, [])
        pairs = examples[0]["pairs"] if examples else 0
        found.append(
            NearMiss(
                pattern=pattern,
                pairs=pairs,
                micro_f1=micro_f1(totals.right + pairs, totals.gold, totals.predicted),
                examples=tuple(
                    NearMissExample(**{name: row[name] for name in NearMissExample.model_fields}) for row in examples
                ),
            )
        )
    return tuple(found)


def _rows(con: "duckdb.DuckDBPyConnection", query: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of sql/<query>.sql, a dictionary each."""
    return list(con.sql(sql(query), params=parameters).to_arrow_table().to_pylist())
