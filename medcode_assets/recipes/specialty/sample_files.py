"""The files of an iteration's samples: `samples.parquet` and `statistics.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medcode_assets.recipes.specialty.sampling import PARTS, Growth, Sample, counts
from medcode_assets.recipes.specialty.sources import Item, Read
from medcode_serving.errors import MedcodeError

SAMPLES = "samples.parquet"
STATISTICS = "statistics.json"


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Write samples in their order; questions and answers are in it, so it is for no eyes but its owner's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    items = [sample.item for sample in samples]
    table = pa.table(
        {
            "id": pa.array([item.id for item in items], pa.string()),
            "specialty": pa.array([item.specialty for item in items], pa.string()),
            "part": pa.array([sample.part for sample in samples], pa.string()),
            "iteration": pa.array([sample.iteration for sample in samples], pa.int32()),
            "question": pa.array([item.question for item in items], pa.string()),
            "answers": pa.array([list(item.answers) for item in items], texts),
            "options": pa.array([list(item.options) for item in items], texts),
            "correct": pa.array([item.correct for item in items], pa.int32()),
            "key": pa.array([item.key for item in items], pa.string()),
        }
    )
    pq.write_table(table, folder / SAMPLES)


def read_samples(folder: Path) -> list[Sample]:
    """Return the samples that `write_samples` wrote. Raises MedcodeError if the file is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / SAMPLES).to_pylist()
    except (OSError, pa.ArrowInvalid):
        raise MedcodeError(
            f"{folder / SAMPLES}: broken or not there; materialize specialty/samples again with drop_existing"
        ) from None
    return [
        Sample(
            Item(
                row["id"],
                row["specialty"],
                row["question"],
                tuple(row["answers"]),
                tuple(row["options"]),
                row["correct"],
                row["key"],
            ),
            row["part"],
            row["iteration"],
        )
        for row in rows
    ]


def statistics(
    samples: Sequence[Sample], growth: Mapping[str, Growth], read: Mapping[str, Read], iteration: int
) -> dict[str, Any]:
    """Return an iteration's counts by specialty and part, and what was added, wanted and not to be had."""
    by_specialty = {
        name: {
            **asdict(own),
            "added": growth[name].added if name in growth else 0,
            "wanted": growth[name].wanted if name in growth else 0,
            "factor": growth[name].factor if name in growth else 1.0,
            "rows_read": read[name].rows,
            "unanswered": read[name].unanswered,
            "duplicates": read[name].duplicates,
        }
        for name, own in counts(samples).items()
    }
    summed = (*PARTS, "added", "wanted", "rows_read", "unanswered", "duplicates")
    return {
        "iteration": iteration,
        "specialties": by_specialty,
        "all": {name: sum(own[name] for own in by_specialty.values()) for name in summed},
        "pool_exhausted": [name for name, own in by_specialty.items() if own["added"] < own["wanted"]],
    }


def write_statistics(folder: Path, found: Mapping[str, Any]) -> None:
    """Write the statistics of an iteration's samples."""
    (folder / STATISTICS).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_statistics(folder: Path) -> dict[str, Any]:
    """Return the statistics of an iteration's samples. Raises MedcodeError if the file is gone or broken."""
    try:
        found: dict[str, Any] = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise MedcodeError(
            f"{folder / STATISTICS}: broken or not there; materialize specialty/samples again with drop_existing"
        ) from None
    return found


SAMPLE_COLUMNS = ["specialty", *PARTS, "added", "wanted", "unanswered", "duplicates"]


def sample_rows(found: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row a specialty and one of all, for people, out of an iteration's statistics."""
    groups = {**found["specialties"], "all": found["all"]}
    return [(name, *(own[column] for column in SAMPLE_COLUMNS[1:])) for name, own in groups.items()]
