"""From sources to the corpus: clean lines of the three stages, in splits and in scope, in one folder.

    stage_1/{train,validation,test}.jsonl    and so on for stages 2 and 3
    scope.csv                                the codes, with their frequencies in training
    rejected.jsonl                           what was not taken and why, without the text
    corpus.json                              counts

Everything streams: in memory are a few hundred numbers for each line (its MinHash above all), never its text.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TextIO

from medcode_assets import corpora
from medcode_assets.artifacts import replace_folder
from medcode_assets.recipes.reasoning.corpus.collecting import Ledger, Means, Tally, collect
from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates
from medcode_assets.recipes.reasoning.corpus.facts import (
    ClusterFacts,
    CorpusFacts,
    CoverageFacts,
    SplitFacts,
    StageFacts,
)
from medcode_assets.recipes.reasoning.corpus.scope import SCOPE_STAGES, Code, code_scope, wanted_codes, write_scope
from medcode_assets.recipes.reasoning.corpus.sources import MIMIC, mimic_versions, refuse_unusable_sources, source_files
from medcode_assets.recipes.reasoning.corpus.splits import SPLITS
from medcode_assets.recipes.reasoning.formats import Stage1Line
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import file_sha256
from medcode_serving.codes.tables import CodeTables, tables_hash
from medcode_serving.errors import MedcodeError

VERSION = 2
"""Changes when the same sources and settings come to other files."""
SHARED = ("validation_share", "test_share", "near_duplicate")
"""Settings in which the stages have to agree: a narrative is on the same side in all of them."""
_DRAWN = "drawn"

Progress = Callable[[str, int, int], None]


def build_corpus(
    settings: Mapping[int, ReasoningSettings],
    folder: Path,
    *,
    tables: CodeTables,
    mimic: Callable[[str], Iterator[Stage1Line]],
    on_progress: Progress | None = None,
) -> CorpusFacts:
    """Build the corpus of the stages given; the same inputs and settings give the same bytes, but for the seconds.

    Each stage's lines are drawn from its sources by weight, preprocessed and checked; no narrative comes twice in a
    stage. Splits are drawn over all stages at once (`splits`), then the scope is taken from what trains stages 1 and 2
    (from all stages if neither is given), with `top_*` and the splits' seed of the largest stage. Lines out of scope
    are dropped from every split.

    Args:
        settings: By stage.
        folder: Replaced as a whole once all is done; nothing is seen of it before.
        tables: The code systems' codes.
        mimic: Lines of stage 1 of a registered version, by its name.
        on_progress: Told (step, done, in all).

    Raises:
        MedcodeError: a source is not there, the stages disagree on how to split, or a split comes out empty.
    """
    started = time.monotonic()
    _refuse_disagreement(settings)
    refuse_unusable_sources(settings)
    settings = dict(sorted(settings.items()))
    aside = folder.with_name(f".{folder.name}.new")
    rmtree(aside, ignore_errors=True)
    (aside / _DRAWN).mkdir(parents=True)
    try:
        facts = _fill(aside, settings, tables, mimic, on_progress or _silent)
        rmtree(aside / _DRAWN)
        facts = facts.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
        (aside / "corpus.json").write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
        replace_folder(aside, folder)
    except BaseException:
        rmtree(aside, ignore_errors=True)
        raise
    return facts


def corpus_fingerprint(settings: Mapping[int, ReasoningSettings], *, mimic: Callable[[str], str] | None = None) -> str:
    """Return a hash of all that a corpus comes from: settings, files, generator, code tables, MIMIC's facts.

    Args:
        settings: By stage.
        mimic: A hash of what a version's lines come from, by its name (`mimic.mimic_fingerprint`); needed where a
            stage names a version.

    Raises:
        MedcodeError: a source is not there, or MIMIC is named and cannot be looked at.
    """
    refuse_unusable_sources(settings)
    versions = mimic_versions(settings)
    if versions and mimic is None:
        raise MedcodeError(f"{MIMIC}{versions[0]}: no MIMIC warehouse to read from; leave it out of reasoning.sources")
    return fingerprint(
        version=VERSION,
        settings={stage: chosen.model_dump() for stage, chosen in settings.items()},
        files={str(file): file_sha256(file) for file in source_files(settings)},
        generator={file.name: file_sha256(file) for file in _generator_files()},
        tables=tables_hash(),
        mimic={name: mimic(name) for name in versions if mimic},
    )


def _generator_files() -> list[Path]:
    """Return what decides the synthetic narratives: texts and code."""
    folder = Path(corpora.__file__).parent
    return sorted(path for path in folder.glob("*narrative*") if path.suffix in {".yaml", ".py"})


def _fill(
    aside: Path,
    settings: Mapping[int, ReasoningSettings],
    tables: CodeTables,
    mimic: Callable[[str], Iterator[Stage1Line]],
    on_progress: Progress,
) -> CorpusFacts:
    common = settings[max(settings)]
    ledger = Ledger(NearDuplicates(common.near_duplicate))
    tallies: dict[int, dict[str, Tally]] = {}
    with (aside / "rejected.jsonl").open("w", encoding="utf-8") as rejected:
        means = Means(tables, mimic, rejected, on_progress)
        for stage, chosen in settings.items():
            with _drawn(aside, stage).open("w", encoding="utf-8") as target:
                tallies[stage] = collect(stage, chosen, means, ledger, target)
    splits = [
        ledger.clusters.split(line, common.seed, common.validation_share, common.test_share)
        for line in range(len(ledger.clusters))
    ]
    scope = _scope(ledger, splits, common, settings)
    kept = set(map(ledger.codes.get, scope))
    counts = {stage: _write_splits(aside, stage, ledger, splits, kept, on_progress) for stage in settings}
    write_scope(aside / "scope.csv", scope, partial(_title, tables))
    facts = CorpusFacts(
        version=VERSION,
        stages={
            stage: _stage_facts(chosen.examples, tallies[stage], counts[stage]) for stage, chosen in settings.items()
        },
        clusters=_cluster_facts(ledger),
        coverage=_coverage(ledger, scope, common),
        seconds=0.0,
    )
    _refuse_empty(facts)
    return facts


def _scope(
    ledger: Ledger, splits: list[str], common: ReasoningSettings, settings: Mapping[int, ReasoningSettings]
) -> dict[Code, int]:
    deciding = [stage for stage in settings if stage in SCOPE_STAGES] or list(settings)
    numbers = Counter(
        code
        for code, stage, split in zip(ledger.code, ledger.stage, splits, strict=True)
        if split == "train" and stage in deciding
    )
    return code_scope({code: numbers[number] for code, number in ledger.codes.items()}, wanted_codes(common))


def _write_splits(
    aside: Path, stage: int, ledger: Ledger, splits: list[str], kept: set[int | None], on_progress: Progress
) -> dict[str, SplitFacts]:
    """Copy a stage's lines from where they were drawn to into its splits' files."""
    folder = aside / f"stage_{stage}"
    folder.mkdir()
    systems = [system for system, _ in ledger.codes]
    by_system: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    by_source: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    outside: Counter[str] = Counter()
    numbers = [number for number, own in enumerate(ledger.stage) if own == stage]
    with ExitStack() as stack:
        files: dict[str, TextIO] = {
            split: stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8")) for split in SPLITS
        }
        drawn = stack.enter_context(_drawn(aside, stage).open(encoding="utf-8", newline="\n"))
        for number, line in zip(numbers, drawn, strict=True):
            split, code = splits[number], ledger.code[number]
            if code not in kept:
                outside[split] += 1
                continue
            files[split].write(line)
            by_system[split][systems[code]] += 1
            by_source[split][ledger.sources[ledger.source[number]]] += 1
    on_progress(f"splits of stage {stage}", len(numbers), len(numbers))
    return {
        split: SplitFacts(
            lines=by_system[split].total(),
            out_of_scope=outside[split],
            by_system=dict(sorted(by_system[split].items())),
            by_source=dict(sorted(by_source[split].items())),
        )
        for split in SPLITS
    }


def _stage_facts(wanted: int, tallies: Mapping[str, Tally], splits: dict[str, SplitFacts]) -> StageFacts:
    return StageFacts(
        examples_wanted=wanted,
        accepted=sum(tally.accepted for tally in tallies.values()),
        splits=splits,
        sources={name: tally.facts() for name, tally in sorted(tallies.items())},
    )


def _coverage(ledger: Ledger, scope: Mapping[Code, int], common: ReasoningSettings) -> dict[str, CoverageFacts]:
    numbers = Counter(ledger.code)
    coverage = {}
    for system in wanted_codes(common):
        seen = {code: numbers[number] for code, number in ledger.codes.items() if code[0] == system}
        kept = {code: count for code, count in seen.items() if code in scope}
        examples = sum(seen.values())
        coverage[system] = CoverageFacts(
            codes_seen=len(seen),
            codes_kept=len(kept),
            examples_seen=examples,
            examples_kept=sum(kept.values()),
            examples_kept_share=round(sum(kept.values()) / examples, 4) if examples else 0.0,
        )
    return coverage


def _cluster_facts(ledger: Ledger) -> ClusterFacts:
    sizes = ledger.clusters.sizes()
    return ClusterFacts(
        clusters=len(sizes),
        of_several_lines=sum(size > 1 for size in sizes),
        largest=max(sizes, default=0),
    )


def _refuse_disagreement(settings: Mapping[int, ReasoningSettings]) -> None:
    for name in SHARED:
        values = {stage: getattr(chosen, name) for stage, chosen in sorted(settings.items())}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{value:g} in stage {stage}" for stage, value in values.items())
            raise MedcodeError(f"reasoning.{name}: {told}; give all stages the same, for they are split together")


def _refuse_empty(facts: CorpusFacts) -> None:
    for stage, of_stage in facts.stages.items():
        if not of_stage.accepted:
            kinds: Counter[str] = Counter()
            for source in of_stage.sources.values():
                kinds.update(source.rejected_by_kind)
            told = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(3)) or "the sources are empty"
            raise MedcodeError(
                f"stage {stage}: no line can be trained on ({told}); look at the sources with `medcode data check FILE`"
            )
        for split, counts in of_stage.splits.items():
            if not counts.lines:
                raise MedcodeError(
                    f"stage {stage}: no line in {split} ({of_stage.accepted} accepted, {counts.out_of_scope} of "
                    f"{split} out of scope, {facts.clusters.largest} lines in the largest cluster of all stages); give "
                    "more examples or sources, raise reasoning.top_icd10, top_cpt or top_hcpcs, or near_duplicate"
                )


def _title(tables: CodeTables, system: str, code: str) -> str | None:
    found = tables.find(system, code)
    return found.title if found else None


def _drawn(aside: Path, stage: int) -> Path:
    return aside / _DRAWN / f"stage_{stage}.jsonl"


def _silent(step: str, done: int, total: int) -> None:
    pass
