"""Synthetic narratives: reproducible, true to their codes, supported, varied, and with worse answers that are worse."""

import csv
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH

import medcode_serving.codes
from medcode_assets.corpora.narrative_subjects import load_bystanders, load_narrative_templates, load_subjects
from medcode_assets.corpora.synthetic_narratives import FULL, synthetic_lines, synthetic_narratives
from medcode_assets.recipes.reasoning.formats import LINE_OF, written
from medcode_assets.recipes.reasoning.support import content_words, is_supported, supported_share
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import read_answer

COUNT = 1500
TABLES = Path(medcode_serving.codes.__file__).parent / "tables"
SUBJECTS = {subject.code: subject for group in load_subjects().values() for subject in group}


@pytest.fixture(scope="module")
def narratives():
    return list(islice(synthetic_narratives(5), COUNT))


def test_one_seed_gives_the_same_narratives_however_many_are_taken(narratives):
    assert list(islice(synthetic_narratives(5), 40)) == narratives[:40]
    assert not {one.narrative for one in islice(synthetic_narratives(6), 300)} & {one.narrative for one in narratives}


def test_codes_are_billable_and_titles_official():
    table = pq.read_table(TABLES / "icd10cm.parquet", columns=["code", "title", "billable"]).to_pydict()
    billable = {code: title for code, title, is_one in zip(*table.values(), strict=True) if is_one}
    with (TABLES / "hcpcs.csv").open(encoding="utf-8", newline="") as file:
        listed = {row["code"]: row["description"] for row in csv.DictReader(file)}
    for system, official in (("icd10cm", billable), ("hcpcs", listed)):
        for subject in load_subjects()[system]:
            for one in (subject, *subject.siblings):
                assert official[one.code] == one.title


def test_subjects_can_always_be_written_about():
    assert Counter(subject.system for subject in SUBJECTS.values()) == {"icd10cm": 40, "hcpcs": 16, "cpt": 12}
    bystanders = load_bystanders()
    assert set(load_narrative_templates(FULL)["chronic"]) <= bystanders.keys()
    for subject in SUBJECTS.values():
        assert subject.names and subject.siblings and subject.excluded
        assert len(subject.complaints) >= 2 and len(subject.findings) >= 2
        assert set(subject.reasons) <= bystanders.keys()
        assert subject.code not in {sibling.code for sibling in subject.siblings}
        assert bool(subject.plans) == (subject.kind == "condition") != bool(subject.reasons)


def test_every_finding_carries_a_conclusion_without_the_name():
    for subject in load_subjects()["icd10cm"]:
        for finding in subject.findings:
            said = content_words(finding)
            assert any(is_supported(f"{finding}: {name}", said) for name in subject.names), (subject.code, finding)


def test_no_text_of_the_american_medical_association():
    for subject in load_subjects()["cpt"]:
        assert subject.title is None
        assert all(re.fullmatch(r"\d{5}", one.code) and one.title is None for one in subject.siblings)


def test_narratives_ask_for_one_code_and_do_not_give_it_away(narratives):
    kinds = load_narrative_templates(FULL)["kinds"]
    for one in narratives:
        subject = SUBJECTS[one.code]
        assert (one.system, one.description) == (subject.system, subject.title)
        assert any(one.narrative.endswith(question) for question in kinds[subject.kind]["question"])
        assert one.code not in one.narrative and one.code.replace(".", "") not in one.narrative
        assert 40 <= len(one.narrative.split()) <= 110
        assert not re.search(r"[{}<>]", one.narrative + "".join(one.points) + "".join(one.worse[0]))


def test_reasoning_quotes_the_narrative_and_concludes(narratives):
    for one in narratives:
        *quoted, conclusion = one.points
        assert 1 <= len(quoted) <= 3
        assert all(point.lower() in one.narrative.lower() for point in quoted)
        assert _names(SUBJECTS[one.code]).search(conclusion)
        assert max(len(point.split()) for point in one.points) <= 14
        assert supported_share(one.points, one.narrative) == 1.0


def test_a_third_of_the_conditions_is_told_from_findings_alone(narratives):
    conditions = [one for one in narratives if one.system == "icd10cm"]
    named = [one for one in conditions if _names(SUBJECTS[one.code]).search(one.narrative)]
    assert 0.55 < len(named) / len(conditions) < 0.8


def test_frequency_falls_with_rank_and_no_code_is_a_good_guess(narratives):
    counts = Counter(one.code for one in narratives)
    assert counts.most_common(1)[0][1] < 0.05 * COUNT
    assert len(counts) == len(SUBJECTS)
    for group in load_subjects().values():
        third = len(group) // 3
        assert sum(counts[one.code] for one in group[:third]) > sum(counts[one.code] for one in group[-third:])


def test_narratives_are_not_each_others_near_duplicates(narratives):
    index = MinHashLSH(threshold=0.8, num_perm=128)
    for number, one in enumerate(narratives[:400]):
        words = one.narrative.lower().split()
        signature = MinHash(num_perm=128)
        signature.update_batch([" ".join(words[at : at + 5]).encode() for at in range(len(words) - 4)])
        assert not index.query(signature)
        index.insert(number, signature)
    assert len({one.narrative for one in narratives}) == COUNT


def test_worse_answers_are_worse_in_the_declared_ways(narratives):
    shares = load_narrative_templates(FULL)["worse"]
    by_kind = Counter(one.worse_kind for one in narratives)
    for kind, share in shares.items():
        assert abs(by_kind[kind] / COUNT - share / 100) < 0.08  # where a kind is not to be had, it is another one
    for one in narratives:
        points, system, code, description = one.worse
        siblings = {(sibling.code, sibling.title) for sibling in SUBJECTS[one.code].siblings}
        assert (points, code) != (one.better, one.code)
        if one.worse_kind == "wrong_code":
            assert points == one.points and system == one.system and (code, description) in siblings
        elif one.worse_kind == "wordy":
            assert (system, code, description) == (one.system, one.code, one.description)
            assert supported_share(points, one.narrative) == 0 and min(len(point.split()) for point in points) > 9
        elif one.worse_kind == "guess":
            assert system == one.system and (code, description) in siblings
            assert set(points) <= set(load_narrative_templates(FULL)["worse_texts"]["guess"])
        elif one.worse_kind in ("borrowed", "fabricated", "asserted"):
            assert (system, code, description) == (one.system, one.code, one.description)
            assert points != one.better
        else:
            aside = SUBJECTS.get(code) or load_bystanders()[code]
            assert code != one.code and (aside.system, aside.title) == (system, description)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_lines_are_of_their_stage_and_hold_what_the_narrative_says(stage):
    for line in islice(synthetic_lines(stage, 5), 60):
        assert LINE_OF[stage].model_validate_json(written(line)) == line
        assert line.metadata.source == "synthetic"
        answer = line.answer
        assert answer.well_formed and bool(answer.points) == (stage > 1)
        assert answer.code in SUBJECTS and answer.description == SUBJECTS[answer.code].title
        if stage == 2:
            assert line.metadata.reasoning_quality == 1.0
        if stage == 3:
            rejected = read_answer(line.rejected)
            assert rejected.well_formed and rejected.points and line.chosen != line.rejected


def test_stages_and_seeds_share_no_narratives():
    streams = [
        {line.narrative for line in islice(synthetic_lines(stage, seed), 100)} for seed in (0, 1) for stage in (1, 2, 3)
    ]
    assert len(set.union(*streams)) == sum(map(len, streams)) == 600


def test_a_stage_that_there_is_not_is_named():
    with pytest.raises(MedcodeError, match="stage 4"):
        synthetic_lines(4, 0)


def _names(subject):
    """A pattern of what the subject is called, with any number where one is drawn."""
    names = [re.sub("<[^>]+>", r"[\\d.]+", re.escape(name).replace(r"\-", "-")) for name in subject.names]
    return re.compile("|".join(names), re.IGNORECASE)


def test_brief_narratives_are_few_and_short_and_say_what_full_ones_say():
    brief = list(islice(synthetic_narratives(5, "brief"), 400))
    subjects = load_narrative_templates("brief")["subjects"]
    assert len({one.code for one in brief}) == sum(subjects.values())
    assert max(len(one.narrative.split()) for one in brief) < 55
    assert all(len(one.points) == 2 and supported_share(one.points, one.narrative) == 1 for one in brief)
    fabricated = [one for one in brief if one.worse_kind == "fabricated"]
    assert len(fabricated) > 0.2 * len(brief)
    asserted = [one for one in brief if one.worse_kind == "asserted"]
    assert all(one.better[:-1] == one.worse[0][:-1] and one.better != one.worse[0] for one in asserted)
    assert all(supported_share(one.better, one.narrative) == 1 for one in asserted)
    assert mean(supported_share(one.worse[0], one.narrative) for one in fabricated) < 0.55  # the conclusion is right


def test_a_style_that_there_is_not_is_named():
    with pytest.raises(MedcodeError, match="style 'long'"):
        next(synthetic_narratives(0, "long"))
