"""Rows become questions: what is dropped, how splits hold, and that augmentation never changes an answer."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.medqa.augmentation import augmented
from medcode_assets.recipes.medqa.loading import check_source, load_source, source_facts
from medcode_assets.recipes.medqa.preparation import prepare
from medcode_assets.recipes.medqa.recipe import MEDQA
from medcode_assets.recipes.medqa.rows import ExamRow
from medcode_assets.recipes.medqa.settings import MedqaSection
from medcode_assets.recipes.medqa.sources import find_source, read_source
from medcode_assets.recipes.medqa.wording import can_be_shuffled, question_key, stays_in_place, wording, words
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.medqa.exam_rows import DRUGS, record, row

MEDMCQA = Path(__file__).parents[5] / "shared" / "data" / "medmcqa" / "dev-half.jsonl"
TEXT = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)


def many(count: int, **changed: object) -> list[ExamRow]:
    return [row(f"Which drug is first in the made up illness number {n}?", cop=n % 4, **changed) for n in range(count)]  # type: ignore[arg-type]


def test_rows_that_are_of_no_use_are_counted_by_reason() -> None:
    rows = [
        *many(40),
        row("", cop=1),
        row("Which one is it that has no answer?", cop=None),
        row("Which one is it whose answer is withheld?", cop=None, withheld=True),
        row("Which one is it that lacks an option?", ("a", "", "c", "d"), 0),
        row("Which one is it that has an option twice?", ("Iron", "zinc", "IRON.", "d"), 0),
        row("which drug is first, in the MADE UP illness number 0", DRUGS[::-1], 3),
        row("Which drug is first in the made up illness number 1?", cop=3),
        row("An open question without any answer at all", (), None),
    ]
    _, facts = prepare(rows, MedqaSection())
    assert facts.dropped == {
        "missing_question": 1,
        "missing_option": 1,
        "duplicate_options": 1,
        "missing_answer": 2,
        "withheld_answer": 1,
        "repeated": 1,
        "contradiction": 1,
    }
    assert facts.read == 48
    assert sum(facts.kept.values()) == 40


def test_a_question_that_stands_in_training_and_in_a_held_out_split_is_held_out() -> None:
    shared = "Which drug is first in the illness that was made up twice?"
    rows = [
        *many(8, split="train"),
        row(shared, cop=0, split="train"),
        row("Which drug is second in a made up illness of validation?", split="validation"),
        row(shared, DRUGS[::-1], cop=3, split="test"),
    ]
    questions, facts = prepare(rows, MedqaSection())
    assert {one.split for one in questions if one.question.startswith(shared)} == {"test"}
    assert facts.dropped == {"repeated": 1}


def test_options_that_differ_in_a_sign_only_are_different() -> None:
    _, facts = prepare([*many(40), row("Which charge has this ion?", ("+1", "-1", "1", "0"), 0)], MedqaSection())
    assert not facts.dropped


def test_nothing_to_use_is_refused() -> None:
    with pytest.raises(MedcodeError, match="none of 2 rows can be used.*missing_answer 2"):
        prepare(many(2, options=(), answer=""), MedqaSection())


def test_a_question_looks_as_the_template_says() -> None:
    settings = MedqaSection(answer_template="{option} ({label})", validation_share=0.2)
    questions, _ = prepare(many(30), settings)
    one = next(
        one for one in questions if one.question.startswith("Which drug is first in the made up illness number 2?")
    )
    assert one.question.splitlines()[1:] == ["A. metformin", "B. warfarin", "C. aspirin", "D. insulin"]
    assert (one.answer, one.correct) == ("aspirin (C)", 2)
    assert one.options == ("metformin (A)", "warfarin (B)", "aspirin (C)", "insulin (D)")


def test_explanations_follow_the_answer_and_open_questions_have_no_options() -> None:
    rows = [
        *many(30, explanation="It works."),
        *(row(f"What is the made up sign number {n}?", (), None, answer=f"Sign {n}.") for n in range(10)),
    ]
    questions, facts = prepare(rows, MedqaSection(explanations=True))
    assert facts.open_questions == 10
    for one in questions:
        if one.options:
            assert one.answer == f"{one.options[one.correct or 0]}\n\nIt works."
        else:
            assert (one.answer[:4], one.correct) == ("Sign", None)


@pytest.mark.parametrize(
    ("splits", "how", "has"),
    [
        ([None], "drawn", {"train", "validation", "test"}),
        (["train", "validation", "test"], "the source's own", {"train", "validation", "test"}),
        (
            ["train", "validation"],
            "its validation split as test.*validation drawn from train",
            {"train", "validation", "test"},
        ),
        (["train"], "validation and test drawn from train", {"train", "validation", "test"}),
    ],
)
def test_a_sources_own_splits_are_kept_and_others_drawn(splits: list[str | None], how: str, has: set[str]) -> None:
    import re

    rows = [one for n, split in enumerate(splits) for one in _numbered(100 * n, 80, split)]
    questions, facts = prepare(rows, MedqaSection(validation_share=0.2, test_share=0.2))
    assert re.search(how, facts.splits)
    assert {one.split for one in questions} == has
    if len(splits) == 3:
        assert facts.kept == {"train": 80, "validation": 80, "test": 80}


def _numbered(first: int, count: int, split: str | None) -> list[ExamRow]:
    return [
        row(f"Which drug is first in made up illness number {n}?", split=split) for n in range(first, first + count)
    ]


def test_held_out_splits_alone_are_refused() -> None:
    with pytest.raises(MedcodeError, match="nothing to train on"):
        prepare(_numbered(0, 9, "test"), MedqaSection())


def test_near_identical_questions_are_on_one_side_and_the_test_split_keeps_its_own() -> None:
    rows = [
        *_numbered(0, 50, "train"),
        *_numbered(50, 20, "validation"),
        *_numbered(70, 20, "test"),
        row("In made-up illness number 70, which drug is the FIRST", DRUGS[::-1], 0, split="train"),
    ]
    questions, facts = prepare(rows, MedqaSection())
    assert facts.dropped == {"in_a_held_out_split": 1}
    assert facts.kept == {"train": 50, "validation": 20, "test": 20}
    sides: dict[str, set[str]] = {}
    for one in questions:
        sides.setdefault(one.group, set()).add(one.split)
    assert all(len(found) == 1 for found in sides.values())


def test_the_sample_keeps_subjects_in_proportion_and_is_the_same_each_time() -> None:
    rows = [
        *_numbered(0, 60, "train"),
        *(row(f"Which bone is at made up place number {n}?", split="train", subject="Anatomy") for n in range(30)),
        *_numbered(100, 20, "validation"),
        *_numbered(200, 20, "test"),
    ]
    settings = MedqaSection(limit=30, held_out=7)
    first, facts = prepare(rows, settings)
    assert facts.kept == {"train": 30, "validation": 7, "test": 7}
    assert facts.subjects["Anatomy"]["train"] == 10
    assert first == prepare(rows, settings)[0]
    assert first != prepare(rows, MedqaSection(limit=30, held_out=7, seed=1))[0]


def test_more_questions_move_none_of_the_others() -> None:
    few, more = (
        {one.question: one.split for one in prepare(_numbered(0, count, None), MedqaSection())[0]}
        for count in (60, 120)
    )
    assert all(more[question] == split for question, split in few.items())


def test_questions_of_few_words_are_told_apart_by_their_answer() -> None:
    assert question_key("True about scurvy is", "vitamin C") != question_key("True about scurvy is", "bleeding gums")
    assert question_key("Scurvy is due to lack of:", "vitamin C") == question_key(
        "Due to lack of ... scurvy", "Vitamin C"
    )
    asked = "All of these cause raised pressure in the brain EXCEPT"
    assert question_key(asked, "a") != question_key(asked.replace("EXCEPT", ""), "a")


@pytest.mark.parametrize("option", ["All of the above", "none of above.", "Both", "NONE", "Any of these", "all"])
def test_options_that_point_at_others_stay(option: str) -> None:
    assert stays_in_place(option)


@pytest.mark.parametrize("option", ["Both kidneys", "None but the heart", "All nerves", "Bothrops"])
def test_other_options_move(option: str) -> None:
    assert not stays_in_place(option)


def test_options_and_explanations_that_name_letters_forbid_shuffling() -> None:
    for option in ("A and B", "Both A and C", "a,c", "BC", "Option A", "Both AB"):
        assert not can_be_shuffled(("one", "two", "three", option)), option
    for option in ("Cord", "Hepatitis A vaccine", "Vitamin A", "Blood and bone", "Ebola"):
        assert can_be_shuffled(("one", "two", "three", option)), option
    for explanation in ("Ans. is 'b' i.e. iron", "Answer- CStructures", "Ans: A(Ref: 3)", "Option D is wrong"):
        assert not can_be_shuffled(DRUGS, explanation), explanation
    assert can_be_shuffled(DRUGS, "Answers differ. Calcium is bound by a protein.")


@settings(max_examples=150, deadline=None)
@given(
    options=st.lists(
        TEXT | st.sampled_from(["All of the above", "None of these", "Both A and B"]),
        min_size=4,
        max_size=4,
        unique_by=str.casefold,
    ),
    cop=st.integers(0, 3),
    factor=st.integers(1, 8),
    seed=st.integers(0, 3),
    stem=TEXT,
)
def test_augmentation_never_changes_the_right_answer(
    options: list[str], cop: int, factor: int, seed: int, stem: str
) -> None:
    given_row = row(stem, tuple(options), cop)
    made = list(augmented(given_row, factor, seed))
    assert len(made) == factor
    assert made[0] == given_row
    assert made == list(augmented(given_row, factor, seed))
    for one in made:
        assert one.cop is not None
        assert one.options[one.cop] == options[cop]
        assert sorted(one.options) == sorted(options)
        assert stem in one.question
        for at, option in enumerate(options):
            if stays_in_place(option) or not can_be_shuffled(options):
                assert one.options[at] == option


def test_augmented_examples_differ_and_only_training_has_them() -> None:
    questions, facts = prepare(many(60), MedqaSection(augmentation=4))
    counts = Counter(one.group for one in questions)
    of_train = {one.group for one in questions if one.split == "train"}
    assert {counts[group] for group in of_train} == {4}
    assert {counts[group] for group in counts.keys() - of_train} == {1}
    assert facts.examples == 4 * facts.kept["train"]
    assert len({one.question for one in questions}) == len(questions)
    assert len({one.correct for one in questions}) == 4


def test_paraphrases_hold_their_question() -> None:
    assert all(template.count("{question}") == 1 for template in wording().paraphrases)
    brackets = row("Is {this} {question} text {0}?")
    assert all("Is {this} {question} text {0}?" in one.question for one in augmented(brackets, 6, 0))


def test_a_file_becomes_the_tables_of_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(record(n, cop=n % 4 + 1)) + "\n" for n in range(120)), encoding="utf-8")
    chosen = MedqaSection(source=str(path), augmentation=2)
    said: list[str] = []
    with open_warehouse(tmp_path / "w.duckdb") as con:
        made = load_source(con, chosen, tmp_path / "cache", say=said.append)
        assert load_source(con, chosen, tmp_path / "cache").skipped
        facts = source_facts(con)
        assert MEDQA.build_examples(con, None).rows == made.rows  # type: ignore[arg-type]
        assert all(passed for _, passed, _ in check_source(con))
        version = MEDQA.data_version(con, tmp_path, "p", 1)
    assert said == [f"q: options are counted from 1 (column cop is 4 in {path}, line 4)"]
    assert facts["preparation"]["examples"] == 2 * facts["preparation"]["kept"]["train"]
    assert (version.release, list(version.sources)) == ("q", ["q.jsonl"])


@pytest.mark.parametrize(("withheld", "missing"), [(0, 0), (20, 0), (20, 8)])
def test_withheld_answers_are_no_fault_of_a_source_and_missing_ones_are(
    tmp_path: Path, withheld: int, missing: int
) -> None:
    cops = {"train": [n % 4 for n in range(40)] + [None] * missing, "test": [-1] * withheld or [1]}
    for split, values in cops.items():
        lines = (
            json.dumps(record(n, question=f"{split} number {n}: which drug?", cop=cop)) for n, cop in enumerate(values)
        )
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with open_warehouse(tmp_path / "w.duckdb") as con:
        load_source(con, MedqaSection(source=str(tmp_path)), tmp_path)
        dropped = source_facts(con)["preparation"]["dropped"]
        passed, told = next((passed, told) for name, passed, told in check_source(con) if name == "few_rows_dropped")
    assert (dropped.get("withheld_answer", 0), dropped.get("missing_answer", 0)) == (withheld, missing)
    assert passed is (not missing)
    if missing:
        assert told == (
            "8 of 68 rows (11.8%) are of no use (8: no right option, or no answer to an open question); at most 10%"
        )


def test_half_of_medmcqa_is_prepared_without_a_leak(tmp_path: Path) -> None:
    if not MEDMCQA.is_file():
        pytest.skip(f"{MEDMCQA} is not on this machine")
    started = time.process_time()
    chosen = MedqaSection(source=str(MEDMCQA), augmentation=3)
    found = read_source(find_source(chosen, tmp_path))
    questions, facts = prepare(found.rows, chosen)
    assert time.process_time() - started < 60
    assert (found.cop_base, facts.read) == (1, 2091)
    assert facts.dropped == {"duplicate_options": 12, "repeated": 5}
    assert sum(facts.kept.values()) == 2074
    assert facts.kept["train"] > 1600
    assert min(facts.kept["validation"], facts.kept["test"]) > 180
    assert facts.examples == 3 * facts.kept["train"]
    stems: dict[str, set[str]] = {}
    for one in prepare(found.rows, chosen.model_copy(update={"augmentation": 1}))[0]:
        said = words(one.question.splitlines()[0])
        if len(said) >= 8:  # shorter ones ("True about scurvy") are told apart by their answers
            stems.setdefault(" ".join(said), set()).add(one.split)
    assert len(stems) > 1000
    assert all(len(sides) == 1 for sides in stems.values())
