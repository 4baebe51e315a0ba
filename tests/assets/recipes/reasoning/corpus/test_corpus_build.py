"""The corpus as a whole: real files in, real files out."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.recipes.reasoning.corpus import collecting
from medcode_assets.recipes.reasoning.corpus.build import build_corpus, corpus_fingerprint
from medcode_assets.recipes.reasoning.corpus.duplicates import normalised, signature
from medcode_assets.recipes.reasoning.corpus.facts import CorpusFacts
from medcode_assets.recipes.reasoning.corpus.scope import read_scope
from medcode_assets.recipes.reasoning.corpus.splits import SPLITS
from medcode_assets.recipes.reasoning.formats import (
    Line,
    Stage1Line,
    stage_1_line,
    stage_2_line,
    stage_3_line,
    written,
)
from medcode_assets.recipes.reasoning.lines import read_lines
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.codes.tables import CodeTables
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import answer_text, code_line

TABLES = CodeTables()
TITLES = {
    ("icd10cm", "I10"): "Essential (primary) hypertension",
    ("icd10cm", "J20.9"): "Acute bronchitis, unspecified",
    ("icd10cm", "E11.9"): "Type 2 diabetes mellitus without complications",
    ("hcpcs", "E0130"): "Walker, rigid (pickup), adjustable or fixed height",
    ("cpt", "99213"): None,
}
CODES = list(TITLES)


def narrative(number: int, words: int = 40) -> str:
    """Return made-up words; two numbers share next to no five in a row."""
    drawn = random.Random(number)
    return " ".join(f"w{drawn.randrange(500)}" for _ in range(words))


def line(stage: int, text: str, code: tuple[str, str] = CODES[0], group: str | None = None) -> Line:
    title = TITLES[code]
    if stage == 1:
        return stage_1_line(text, *code, title, source="made", group=group)
    point = " ".join(text.split()[:6])
    if stage == 2:
        return stage_2_line(text, [point], *code, title, quality=1.0, source="made", group=group)
    worse = answer_text([point], code_line("icd10cm", "K35.80", "Unspecified acute appendicitis"))
    return stage_3_line(text, answer_text([point], code_line(*code, title)), worse, source="made", group=group)


def write(file: Path, lines: list[Line]) -> str:
    file.write_text("".join(written(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


def no_mimic(version: str) -> Iterator[Stage1Line]:
    raise AssertionError(version)


def build(folder: Path, settings: dict[int, ReasoningSettings], **given: object) -> CorpusFacts:
    return build_corpus(settings, folder, **{"tables": TABLES, "mimic": no_mimic, **given})  # type: ignore[arg-type]


def of_stage(stage: int, *files: str, **changed: object) -> ReasoningSettings:
    return ReasoningSettings(stage=stage, sources=dict.fromkeys(files, 1.0), examples=1000, **changed)


def read_back(folder: Path, stage: int) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for split in SPLITS:
        read = [one for _, one in read_lines(folder / f"stage_{stage}" / f"{split}.jsonl", stage)]
        assert all(hasattr(one, "narrative") for one in read)
        found[split] = read
    return found


def content(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    facts = json.loads(files.pop("corpus.json"))
    return files | {"corpus.json": json.dumps({**facts, "seconds": 0}).encode()}


@pytest.fixture
def three_stages(tmp_path: Path) -> dict[int, ReasoningSettings]:
    """120 lines of each stage; the same 60 narratives, nearly, stand in all of them."""
    settings = {}
    for stage in (1, 2, 3):
        shared = [line(stage, f"stage{stage} {narrative(number, 80)}", CODES[number % 5]) for number in range(60)]
        own = [line(stage, narrative(1000 * stage + number), CODES[number % 5]) for number in range(60)]
        settings[stage] = of_stage(stage, write(tmp_path / f"{stage}.jsonl", shared + own))
    return settings


def test_every_line_comes_to_one_split_with_its_facts(
    tmp_path: Path, three_stages: dict[int, ReasoningSettings]
) -> None:
    told: list[tuple[str, int, int]] = []
    facts = build(tmp_path / "corpus", three_stages, on_progress=lambda *step: told.append(step))
    for stage in (1, 2, 3):
        splits = read_back(tmp_path / "corpus", stage)
        given = {one.narrative for _, one in read_lines(tmp_path / f"{stage}.jsonl", stage)}
        assert sorted(one.narrative for lines in splits.values() for one in lines) == sorted(given)
        counts = facts.stages[stage].splits
        assert {split: counts[split].lines for split in SPLITS} == {split: len(splits[split]) for split in SPLITS}
        for split in SPLITS:
            assert counts[split].by_system == Counter(one.answer.system for one in splits[split])
            assert counts[split].by_source == {str(tmp_path / f"{stage}.jsonl"): counts[split].lines}
        source = facts.stages[stage].sources[str(tmp_path / f"{stage}.jsonl")]
        assert (source.drawn, source.accepted, source.rejected, source.duplicates) == (120, 120, 0, 0)
        assert source.dry
    # 60 clusters of three lines, 180 of one.
    assert (facts.clusters.clusters, facts.clusters.of_several_lines, facts.clusters.largest) == (240, 60, 3)
    assert json.loads((tmp_path / "corpus" / "corpus.json").read_text()) == json.loads(facts.model_dump_json())
    assert told == [(f"stage {stage}", 120, 1000) for stage in (1, 2, 3)] + [
        (f"splits of stage {stage}", 120, 120) for stage in (1, 2, 3)
    ]
    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {
        "stage_1",
        "stage_2",
        "stage_3",
        "rejected.jsonl",
        "scope.csv",
        "corpus.json",
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, three_stages: dict[int, ReasoningSettings]) -> None:
    build(tmp_path / "one", three_stages)
    build(tmp_path / "other", dict(reversed(three_stages.items())))
    assert content(tmp_path / "one") == content(tmp_path / "other")
    reseeded = {stage: chosen.model_copy(update={"seed": 1}) for stage, chosen in three_stages.items()}
    build(tmp_path / "reseeded", reseeded)
    assert content(tmp_path / "one") != content(tmp_path / "reseeded")


def test_no_twin_of_a_narrative_straddles_the_splits(tmp_path: Path) -> None:
    settings = {}
    for stage in (1, 2, 3):
        lines = [line(stage, narrative(10_000 * stage + number, 60)) for number in range(80)]
        for number in range(80):
            text = narrative(number, 60)
            twin = (text, text.upper(), f"{text} of stage {stage}", text.replace("w1", "v1", 1))[number % 4]
            lines.append(line(stage, twin, group=f"patient-{number % 7}" if number % 5 == 0 else None))
            lines.append(line(stage, f"{twin} again"))
        settings[stage] = of_stage(stage, write(tmp_path / f"{stage}.jsonl", lines), test_share=0.3)
    build(tmp_path / "corpus", settings)
    sides: dict[str, list[Line]] = {split: [] for split in SPLITS}
    for stage in (1, 2, 3):
        for split, lines in read_back(tmp_path / "corpus", stage).items():
            sides[split] += lines
    total = sum(map(len, sides.values()))
    assert total == 3 * 240
    known = [(signature(one.narrative), normalised(one.narrative)) for one in sides["train"]]
    groups = [{one.metadata.group for one in lines} - {None} for lines in sides.values()]
    assert sum(map(len, groups)) == 7  # a patient in one split each
    for one in sides["validation"] + sides["test"]:
        own = signature(one.narrative)
        assert max(own.jaccard(other) for other, _ in known) < 0.8
        assert normalised(one.narrative) not in {text for _, text in known}
    # Near twins within training are data: not all of them are gone.
    train = [signature(one.narrative) for one in sides["train"][:60]]
    assert any(one.jaccard(other) > 0.8 for place, one in enumerate(train) for other in train[:place])


def test_exact_duplicates_within_a_stage_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = [line(1, narrative(number)) for number in range(100)]
    lines += [line(1, narrative(number).upper().replace(" ", "  ")) for number in range(30)]
    facts = build(tmp_path / "corpus", {1: of_stage(1, write(tmp_path / "a.jsonl", lines))})
    (source,) = facts.stages[1].sources.values()
    assert (source.drawn, source.duplicates, source.accepted, facts.stages[1].accepted) == (130, 30, 100, 100)


def test_what_is_wrong_is_never_trained_on_and_named_without_its_text(tmp_path: Path) -> None:
    good = [line(2, narrative(number)) for number in range(60)]
    secret = "confidential words of a narrative"
    long = stage_2_line(f"{secret} " * 70, [secret * 40], "icd10cm", "I10", None, quality=1.0, source="made")
    unknown = stage_2_line(f"{secret} here", [secret], "icd10cm", "Z99.999", None, quality=1.0, source="made")
    file = Path(write(tmp_path / "a.jsonl", [*good, long, unknown]))
    with file.open("a") as stream:
        stream.write('{"messages": \n')
        stream.write(written(line(2, f"{secret} again")).replace('"ICD10"', '"ICD11"') + "\n")
    facts = build(tmp_path / "corpus", {2: of_stage(2, str(file))})
    problems = [json.loads(row) for row in (tmp_path / "corpus" / "rejected.jsonl").read_text().splitlines()]
    assert {(row["line"], row["kind"]) for row in problems} >= {
        (61, "reasoning_too_long"),
        (62, "code_invalid"),
        (63, "not_json"),
        (64, "unknown_code_type"),
    }
    assert {(row["stage"], row["source"]) for row in problems} == {(2, str(file))}
    (source,) = facts.stages[2].sources.values()
    assert (source.drawn, source.rejected, source.accepted) == (64, 4, 60)
    assert source.rejected_by_kind == Counter(row["kind"] for row in problems)
    for path in (tmp_path / "corpus").rglob("*"):
        assert path.is_dir() or "confidential" not in path.read_text()


def test_codes_out_of_scope_are_dropped_from_every_split_and_coverage_is_told(tmp_path: Path) -> None:
    plan = [("icd10cm", "I10")] * 100 + [("icd10cm", "J20.9")] * 60 + [("icd10cm", "E11.9")] * 40
    plan += [("hcpcs", "E0130")] * 50 + [("cpt", "99213")] * 30
    lines = [line(1, narrative(number), code) for number, code in enumerate(plan)]
    # In stage 3 J20.9 is the most frequent code, and that decides nothing.
    preferences = [line(3, narrative(5000 + number), CODES[number % 2]) for number in range(100)]
    preferences += [line(3, narrative(6000 + number), CODES[1]) for number in range(100)]
    settings = {
        1: of_stage(1, write(tmp_path / "1.jsonl", lines)),
        3: of_stage(3, write(tmp_path / "3.jsonl", preferences), top_icd10=1, top_cpt=0),
    }
    facts = build(tmp_path / "corpus", settings)
    first, third = read_back(tmp_path / "corpus", 1), read_back(tmp_path / "corpus", 3)
    assert Counter(one.answer.code for lines in first.values() for one in lines) == {"I10": 100, "E0130": 50}
    assert Counter(one.answer.code for lines in third.values() for one in lines) == {"I10": 50}
    assert sum(counts.out_of_scope for counts in facts.stages[1].splits.values()) == 130
    assert sum(counts.out_of_scope for counts in facts.stages[3].splits.values()) == 150
    told = facts.coverage["icd10cm"]
    assert (told.codes_seen, told.codes_kept, told.examples_seen, told.examples_kept) == (3, 1, 400, 150)
    assert told.examples_kept_share == 0.375
    assert (facts.coverage["cpt"].codes_kept, facts.coverage["hcpcs"].examples_kept_share) == (0, 1.0)
    trained = Counter(one.answer.code for one in first["train"])
    title = "Essential (primary) hypertension"
    scope = list(read_scope(tmp_path / "corpus" / "scope.csv"))
    assert scope[0] == ("icd10cm", "I10", title, trained["I10"])
    assert [(row[1], row[3]) for row in scope[1:]] == [("E0130", trained["E0130"])]


def test_sources_are_mixed_by_the_weight_of_accepted_lines_until_there_are_enough(tmp_path: Path) -> None:
    many = [line(1, narrative(number)) for number in range(900)]
    half_bad = [line(1, narrative(2000 + number) if number % 2 else "too short") for number in range(900)]
    few = [line(1, narrative(4000 + number)) for number in range(15)]
    files = [write(tmp_path / f"{name}.jsonl", lines) for name, lines in zip("abc", (many, half_bad, few), strict=True)]
    weights = dict(zip(files, (2.0, 1.0, 1.0), strict=True))
    facts = build(tmp_path / "corpus", {1: ReasoningSettings(sources=weights, examples=600)})
    many_facts, bad_facts, few_facts = (facts.stages[1].sources[file] for file in files)
    assert facts.stages[1].accepted == 600
    assert (few_facts.accepted, few_facts.dry) == (15, True)
    assert not many_facts.dry
    assert not bad_facts.dry
    # 585 lines at 2:1: 390 with a standard deviation of 11.
    assert many_facts.accepted == pytest.approx(390, abs=45)
    assert many_facts.drawn == many_facts.accepted
    assert bad_facts.rejected_by_kind == {"narrative_too_short": bad_facts.rejected}
    assert bad_facts.rejected == pytest.approx(bad_facts.accepted, abs=1)


def test_mimic_is_asked_for_by_version_and_narratives_are_cleaned(tmp_path: Path) -> None:
    asked: list[str] = []

    def mimic(version: str) -> Iterator[Stage1Line]:
        asked.append(version)
        for number in range(200):
            yield line(1, f"[**Name**]\r\n\n\n\n{narrative(number)}\x00", group=f"subject-{number // 3}")  # type: ignore[misc]

    settings = {1: ReasoningSettings(sources={"mimic:iv-3.1": 1.0}, examples=200)}
    facts = build(tmp_path / "corpus", settings, mimic=mimic)
    assert asked == ["iv-3.1"]
    assert facts.stages[1].sources["mimic:iv-3.1"].cleaned == 200
    splits = read_back(tmp_path / "corpus", 1)
    assert {one.narrative for lines in splits.values() for one in lines} == {
        f"[**Name**]\n\n{narrative(number)}" for number in range(200)
    }
    patients = [{one.metadata.group for one in lines} for lines in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 67


def test_synthetic_lines_go_through_all_stages(tmp_path: Path) -> None:
    facts = build(
        tmp_path / "corpus", {stage: ReasoningSettings(stage=stage, examples=120, seed=4) for stage in (1, 2, 3)}
    )
    for stage in (1, 2, 3):
        assert facts.stages[stage].accepted == 120
        assert facts.stages[stage].sources["synthetic"].rejected == 0
        assert not facts.stages[stage].sources["synthetic"].dry
        systems = set().union(*(counts.by_system for counts in facts.stages[stage].splits.values()))
        assert systems == {"icd10cm", "cpt", "hcpcs"}


def test_an_endless_source_of_lines_that_are_of_no_use_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "PATIENCE", 50)
    settings = {2: ReasoningSettings(stage=2, max_reasoning_words=5)}
    with pytest.raises(MedcodeError, match=r"stage 2: no line can be trained on \(reasoning_too_long 50\)"):
        build(tmp_path / "corpus", settings)


def test_an_empty_split_is_refused_with_the_way_out(tmp_path: Path) -> None:
    one_patient = [line(1, narrative(number), group="p") for number in range(50)]
    settings = {1: of_stage(1, write(tmp_path / "a.jsonl", one_patient))}
    with pytest.raises(
        MedcodeError, match=r"stage 1: no line in \w+ \(50 accepted, .* 50 lines in the largest cluster"
    ):
        build(tmp_path / "corpus", settings)
    (tmp_path / "a.jsonl").write_text('{"messages": []}\n\n{}\n')
    with pytest.raises(MedcodeError, match=r"stage 1: no line can be trained on \(schema 2\)"):
        build(tmp_path / "corpus", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_stages_that_would_split_otherwise_are_refused(tmp_path: Path) -> None:
    settings = {1: ReasoningSettings(test_share=0.1), 3: ReasoningSettings(stage=3, test_share=0.2)}
    with pytest.raises(MedcodeError, match=r"reasoning\.test_share: 0\.1 in stage 1, 0\.2 in stage 3; give all"):
        build(tmp_path / "corpus", settings)


def test_what_raises_leaves_the_earlier_corpus_and_nothing_beside_it(
    tmp_path: Path, three_stages: dict[int, ReasoningSettings]
) -> None:
    build(tmp_path / "corpus", three_stages)
    before = content(tmp_path / "corpus")

    def interrupted(step: str, done: int, total: int) -> None:
        if step == "splits of stage 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "corpus", three_stages, on_progress=interrupted)
    assert content(tmp_path / "corpus") == before
    assert not list(tmp_path.glob(".*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from medcode_assets.recipes.reasoning.corpus import collecting
from medcode_assets.recipes.reasoning.corpus.build import build_corpus
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.codes.tables import CodeTables
kill = lambda step, done, total: step == "splits of stage 1" and os.kill(os.getpid(), signal.SIGKILL)
settings = {1: ReasoningSettings(sources={sys.argv[1]: 1.0}, examples=1000)}
build_corpus(settings, Path(sys.argv[2]), tables=CodeTables(), mimic=None, on_progress=kill)
"""


def test_a_killed_build_leaves_no_corpus_and_the_next_one_is_whole(
    tmp_path: Path, three_stages: dict[int, ReasoningSettings]
) -> None:
    (file,) = three_stages[1].sources
    killed = subprocess.run([sys.executable, "-c", KILLED, file, str(tmp_path / "corpus")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "corpus").exists()
    assert (tmp_path / ".corpus.new").exists()
    build(tmp_path / "corpus", {1: three_stages[1]})
    build(tmp_path / "other", {1: three_stages[1]})
    assert content(tmp_path / "corpus") == content(tmp_path / "other")
    assert not list(tmp_path.glob(".*"))


def test_the_fingerprint_knows_settings_files_and_mimic(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [line(1, narrative(1))])
    settings = {1: of_stage(1, file), 2: ReasoningSettings(stage=2)}
    first = corpus_fingerprint(settings)
    assert corpus_fingerprint(dict(reversed(settings.items()))) == first
    assert corpus_fingerprint({**settings, 2: ReasoningSettings(stage=2, seed=9)}) != first
    write(tmp_path / "a.jsonl", [line(1, narrative(2))])
    assert corpus_fingerprint(settings) != first
    with_mimic = {1: ReasoningSettings(sources={"mimic:iv": 1.0})}
    assert corpus_fingerprint(with_mimic, mimic=lambda _: "a") != corpus_fingerprint(with_mimic, mimic=lambda _: "b")
    with pytest.raises(MedcodeError, match="mimic:iv: no MIMIC warehouse"):
        corpus_fingerprint(with_mimic)
