"""The samples of an iteration: drawn from the sources, or taken over from the iteration before and added to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medcode_assets.artifacts import made, stands
from medcode_assets.recipes.specialty.iterations import MOST, Before, Folder, Iteration, finished, taken_over
from medcode_assets.recipes.specialty.sample_files import statistics, write_samples, write_statistics
from medcode_assets.recipes.specialty.sampling import (
    CONSTANT,
    SPLIT_OF,
    Growth,
    Sample,
    Sampling,
    first_samples,
    grow,
    overlaps,
    part_hashes,
)
from medcode_assets.recipes.specialty.settings import SAMPLING, SpecialtySection
from medcode_assets.recipes.specialty.sources import SYNTHETIC, Specialties, contents_hash, read_source
from medcode_assets.recipes.words.questions import Question
from medcode_assets.warehouse import fingerprint
from medcode_serving.errors import MedcodeError

VERSION = 1
"""Changes when the same sources and settings come to other samples."""
CHECKS = {
    "holdout_unchanged": "The holdout is that of iteration 1 (sha256 over ids and contents).",
    "eval_unchanged": "The eval questions are those of iteration 1 (sha256 over ids and contents).",
    "no_overlap": "No question is in two parts, or twice in one.",
}


@dataclass(frozen=True)
class Plan:
    """All that an iteration's samples come from."""

    iteration: Iteration
    source: str
    sampling: Sampling
    found: Specialties
    before: Before | None
    recommended: dict[str, float]
    """By the iteration before: factor of training samples by specialty."""
    adjustments: dict[str, float]
    """The same by the settings, or by those with which this iteration was drawn already."""

    @property
    def factors(self) -> dict[str, float]:
        """By how much each specialty's training samples grow."""
        return {**self.recommended, **self.adjustments}

    @property
    def fingerprint(self) -> str:
        """Hash of it."""
        return fingerprint(
            version=VERSION,
            sampling=asdict(self.sampling),
            sources=self.found.contents(),
            before=self.before.facts["contents"] if self.before else None,
            factors=self.factors,
        )


def plan(iteration: Iteration, section: SpecialtySection, folder: Folder) -> Plan:
    """Read the sources and the iteration before, and say by how much each specialty grows.

    Raises:
        MedcodeError: no source is named, it is wrong, or no longer what iteration 1 was drawn from; the iteration
            before was not evaluated; or the iteration is to become another one, and the next was made from it.
    """
    before = taken_over(iteration, folder)
    earlier = made(folder(iteration.key, "samples"))
    source = _source(iteration, section, before, earlier)
    found = read_source(source, synthetic_per_specialty=section.synthetic_per_specialty, seed=section.seed)
    if before:
        _refuse_other_sampling(iteration, section, before)
        _refuse_changed_sources(iteration, source, found, before)
    recommended = before.recommended if before else {}
    adjustments = section.adjustments or (earlier["adjustments"] if earlier else {})
    planned = Plan(
        iteration,
        source,
        Sampling(**{name: getattr(section, name) for name in SAMPLING}),
        found,
        before,
        recommended,
        adjustments,
    )
    following = iteration.at(iteration.number + 1)
    if earlier and earlier["fingerprint"] != planned.fingerprint and made(folder(following.key, "samples")):
        raise MedcodeError(
            f"iteration {iteration.key}: its sources, settings or what it takes over changed, and {following.key} was "
            f"made from it as it was; change them back, delete the later iterations' artifacts, or take another --name"
        )
    return planned


def draw(planned: Plan) -> tuple[list[Sample], dict[str, Growth]]:
    """Return an iteration's samples, and what was added.

    Raises:
        MedcodeError: there are too few questions, a specialty is unknown, or nothing is added by a later iteration.
    """
    before, iteration = planned.before, planned.iteration
    samples = before.samples if before else first_samples(planned.found.items, planned.sampling)
    samples, growth = grow(samples, planned.factors, iteration.number)
    if before and not any(one.added for one in growth.values()):
        asked = ", ".join(sorted(name for name, one in growth.items() if one.wanted))
        reason = f"the pools of {asked} are exhausted" if asked else f"{before.iteration.key} recommends none"
        raise MedcodeError(
            f"iteration {iteration.key}: no specialty gets more samples, for {reason}; name some in "
            "specialty.adjustments, or be content"
        )
    return samples, growth


def fill_samples(planned: Plan, folder: Path) -> dict[str, Any]:
    """Draw the samples into an artifact's folder and return the facts about them. Raises MedcodeError as `draw`."""
    samples, growth = draw(planned)
    write_samples(folder, samples)
    told = statistics(samples, growth, planned.found.read, planned.iteration.number)
    write_statistics(folder, told)
    before = planned.before
    return {
        "iteration": planned.iteration.number,
        "source": planned.source,
        "sampling": asdict(planned.sampling),
        "files": planned.found.files,
        "sources": planned.found.contents(),
        # Handed on from iteration 1, never computed anew: each iteration is held to the first.
        "hashes": before.facts["hashes"] if before else part_hashes(samples),
        "contents": samples_hash(samples),
        "adjustments": planned.adjustments,
        "growth": {name: asdict(one) for name, one in growth.items()},
        "pool_exhausted": told["pool_exhausted"],
    }


def samples_hash(samples: Iterable[Sample]) -> str:
    """Return a hash of samples, their parts and their order."""
    return fingerprint(samples=[[s.item.id, s.part, s.iteration, contents_hash([s.item])] for s in samples])


def check_samples(samples: list[Sample], facts: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    """Hold samples, as their file has them, to iteration 1; return each check's name, whether it passed, and why."""
    found = part_hashes(samples)
    checks = []
    for part in CONSTANT:
        same = found[part] == facts["hashes"][part]
        reason = f"sha256 {found[part][:12]}" + ("" if same else f", in iteration 1 {facts['hashes'][part][:12]}")
        checks.append((f"{part}_unchanged", same, reason))
    repeated = overlaps(samples)
    return [*checks, ("no_overlap", not repeated, f"{repeated} questions come more than once")]


def as_questions(samples: Iterable[Sample]) -> Iterator[Question]:
    """Give what the warehouse gets: holdout as test, eval as validation, train; the pool stays out."""
    for sample in samples:
        if sample.part in SPLIT_OF:
            item = sample.item
            yield Question(
                question=item.question,
                answer=item.answers[0],
                split=SPLIT_OF[sample.part],
                group=item.key,
                subject=item.specialty,
                references=item.answers,
                options=item.options,
                correct=item.correct,
            )


def refuse_undrawable(iteration: Iteration, section: SpecialtySection, folder: Folder) -> Plan:
    """Read all that an iteration's samples come from, before anything is made of them; return it.

    Raises:
        MedcodeError: as `plan` and `draw` do.
    """
    planned = plan(iteration, section, folder)
    if not stands(folder(iteration.key, "samples"), planned.fingerprint):
        draw(planned)
    return planned


def current_iteration(iterations: Sequence[Iteration], folder: Folder) -> Iteration:
    """Return the iteration that `medcode specialty next` makes: the last one if it is not finished, else one more.

    Args:
        iterations: Those of a name that have samples, at least one.
        folder: Of an artifact.

    Raises:
        MedcodeError: there are too many.
    """
    last = iterations[-1]
    if not finished(last, folder):
        return last
    if last.number == MOST:
        raise MedcodeError(f"iteration {last.key}: the last of {MOST}; go on under another --name")
    return last.at(last.number + 1)


def _source(
    iteration: Iteration, section: SpecialtySection, before: Before | None, earlier: Mapping[str, Any] | None
) -> str:
    """Return where questions come from: as the settings say, else as the iteration before or this one had it."""
    if section.source is not None:
        return SYNTHETIC if section.source == SYNTHETIC else str(Path(section.source).resolve())
    for facts in (before.facts if before else None, earlier):
        if facts:
            return str(facts["source"])
    raise MedcodeError(
        f"iteration {iteration.key}: no source; name a folder of dataset_with_answers_*.json files, or "
        f"`{SYNTHETIC}`, as --source or specialty.source"
    )


def _refuse_other_sampling(iteration: Iteration, section: SpecialtySection, before: Before) -> None:
    for name, value in before.facts["sampling"].items():
        if getattr(section, name) != value:
            raise MedcodeError(
                f"iteration {iteration.key}: specialty.{name} is {getattr(section, name)}, and was {value} in "
                f"{before.iteration.key}; holdout and eval never change, so give the same, or take another --name"
            )


def _refuse_changed_sources(iteration: Iteration, source: str, found: Specialties, before: Before) -> None:
    earlier, now = before.facts["sources"], found.contents()
    changed = [f"{name} {_change(earlier.get(name), now.get(name))}" for name in sorted({*earlier, *now})]
    changed = [told for told in changed if not told.endswith("same")]
    if changed:
        raise MedcodeError(
            f"{source}: not the questions that {before.iteration.at(1).key} was drawn from ({'; '.join(changed)}); put "
            f"them back for iteration {iteration.key}, or begin anew under another --name"
        )


def _change(earlier: str | None, now: str | None) -> str:
    if earlier == now:
        return "same"
    return "is new" if earlier is None else "is missing" if now is None else "changed"
