"""How a progressive training went: what each iteration trained on and what came of it, in a file and a picture."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.artifacts import made
from medcode_assets.recipes.specialty.iterations import Folder, Iteration
from medcode_assets.recipes.specialty.measuring import Value
from medcode_assets.recipes.specialty.plots import progress_lines
from medcode_assets.recipes.specialty.recommending import RECOMMENDATIONS, read_recommendations
from medcode_assets.recipes.specialty.results import read_results
from medcode_assets.recipes.specialty.sample_files import read_statistics
from medcode_assets.warehouse import fingerprint

PROGRESS = "progress.json"
PICTURE = "progress.png"
VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecialtyStep(_Frozen):
    """A specialty in one iteration."""

    train: int
    added: int
    pool: int
    value: float = Field(description="Of the tuned model.")
    weak: bool


class Step(_Frozen):
    """An iteration that was evaluated."""

    iteration: int
    base_model: str
    measure: str
    train: int
    added: int
    pool: int
    base: Value
    finetuned: Value
    improvement: Value = Field(description="Tuned minus base, paired.")
    weak: tuple[str, ...]
    specialties: dict[str, SpecialtyStep]


class Progress(_Frozen):
    """All iterations up to one."""

    name: str
    measure: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = Field(description="Why iterations may not compare.")


def progress_fingerprint(iteration: Iteration, measure: str, folder: Folder) -> str:
    """Return the fingerprint of the results and recommendations of all iterations up to one."""
    seals = {
        key: [(made(folder(key, name)) or {}).get("seal") for name in ("samples", "results", RECOMMENDATIONS)]
        for key in (iteration.at(number).key for number in range(1, iteration.number + 1))
    }
    return fingerprint(version=VERSION, measure=measure, seals=seals)


def collect_progress(iteration: Iteration, measure: str, folder: Folder) -> Progress:
    """Return the iterations up to one; those that were not evaluated, or whose artifacts are gone, are named."""
    steps, warnings = [], []
    for number in range(1, iteration.number + 1):
        step = read_step(iteration.at(number), folder, measure)
        if step:
            steps.append(step)
        else:
            warnings.append(f"iteration {number} has no results")
    if len({step.base_model for step in steps}) > 1:
        warnings.append("iterations have different base models, so they do not compare")
    return Progress(name=iteration.name, measure=measure, steps=tuple(steps), warnings=tuple(warnings))


def read_step(iteration: Iteration, folder: Folder, measure: str | None = None) -> Step | None:
    """Return what an iteration came to, by a measure or the one that found its weak specialties; None: no results."""
    if not all(made(folder(iteration.key, name)) for name in ("samples", "results", RECOMMENDATIONS)):
        return None
    told = read_statistics(folder(iteration.key, "samples"))
    results = read_results(folder(iteration.key, "results"))
    advice = read_recommendations(folder(iteration.key, RECOMMENDATIONS))
    measure, weak = measure or advice.rule.measure, advice.low_performance_specialties
    overall = results.overall.metric(measure)
    return Step(
        iteration=iteration.number,
        base_model=results.base_model,
        measure=measure,
        **{name: told["all"][name] for name in ("train", "added", "pool")},
        base=overall.base,
        finetuned=overall.finetuned,
        improvement=overall.difference,
        weak=weak,
        specialties={
            group.name: SpecialtyStep(
                **{name: told["specialties"][group.name][name] for name in ("train", "added", "pool")},
                value=group.metric(measure).finetuned.value,
                weak=group.name in weak,
            )
            for group in results.specialties
        },
    )


def write_progress(folder: Path, found: Progress) -> None:
    """Write progress and its picture into an artifact's folder."""
    (folder / PICTURE).write_bytes(progress_lines(found))
    text = json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / PROGRESS).write_text(text + "\n", encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """Return the progress of an artifact's folder."""
    return Progress.model_validate_json((folder / PROGRESS).read_text(encoding="utf-8"))


def step_rows(found: Progress) -> list[tuple[object, ...]]:
    """Return a row an iteration, for people."""
    return [
        (
            step.iteration,
            step.train,
            step.added,
            step.pool,
            step.base.value,
            step.finetuned.value,
            f"{step.improvement.value:+.3f} [{step.improvement.low:+.3f}, {step.improvement.high:+.3f}]",
            ", ".join(step.weak) or "none",
        )
        for step in found.steps
    ]


STEP_COLUMNS = ["iteration", "train", "added", "pool", "untuned base", "tuned", "improvement", "weak"]


def specialty_rows(found: Progress) -> tuple[list[str], list[tuple[object, ...]]]:
    """Return column names and a row a specialty: its measure in each iteration, with its training samples."""
    names = sorted({name for step in found.steps for name in step.specialties})
    columns = ["specialty", *(f"iteration {step.iteration}" for step in found.steps)]
    return columns, [(name, *(_cell(step.specialties.get(name)) for step in found.steps)) for name in names]


def _cell(one: SpecialtyStep | None) -> str:
    return f"{one.value:.3f} ({one.train})" if one else ""
