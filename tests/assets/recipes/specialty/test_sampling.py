"""What is drawn for each part, and that growing takes from the pool alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.specialty.sampling import (
    PARTS,
    Counts,
    Sampling,
    counts,
    first_samples,
    grow,
    overlaps,
    part_hashes,
    part_sizes,
)
from medcode_assets.recipes.specialty.sources import Item, question_key
from medcode_serving.errors import MedcodeError

USUAL = Sampling(holdout=10, train_share=0.5, eval_share=0.2, seed=0)


def items(specialty: str, number: int) -> list[Item]:
    texts = [f"{specialty} question {place}" for place in range(number)]
    return [
        Item(f"{specialty}:{place}", specialty, text, ("x",), key=question_key(text))
        for place, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("questions", "sizes"),
    [
        (110, Counts(10, 10, 40, 50)),  # 100 left: half 50, of it 20 % eval
        (60, Counts(10, 5, 20, 25)),
        (13, Counts(10, 1, 1, 1)),  # 3 left: half 1.5, up; at least one each
        (14, Counts(10, 1, 1, 2)),
        (25, Counts(10, 2, 6, 7)),  # 15 left: half 7.5, up; eval 1.6, up
    ],
)
def test_the_sizes_of_the_parts_by_hand(questions: int, sizes: Counts) -> None:
    assert part_sizes(questions, USUAL) == sizes


def test_all_specialties_with_too_few_questions_are_told_at_once() -> None:
    rows = [*items("c", 3), *items("a", 12), *items("b", 13)]
    with pytest.raises(
        MedcodeError, match=r"too few questions for a holdout of 10, .* of the rest: a \(12\), c \(3\);"
    ):
        first_samples(rows, USUAL)


def test_the_order_of_the_questions_makes_no_difference_and_the_seed_does() -> None:
    rows = [*items("a", 40), *items("b", 50)]
    assert first_samples(rows, USUAL) == first_samples(rows[::-1], USUAL)
    assert part_hashes(first_samples(rows, USUAL)) != part_hashes(
        first_samples(rows, Sampling(holdout=10, train_share=0.5, eval_share=0.2, seed=1))
    )


def test_growth_by_hand() -> None:
    first = first_samples([*items("a", 60), *items("b", 60), *items("c", 14)], USUAL)
    grown, growth = grow(first, {"a": 1.5, "b": 1.1, "c": 9.0}, 2)
    assert counts(grown) == {"a": Counts(10, 5, 30, 15), "b": Counts(10, 5, 22, 23), "c": Counts(10, 1, 3, 0)}
    assert (growth["c"].wanted, growth["c"].added) == (8, 2)
    assert {sample.iteration for sample in grown if sample.part == "train"} == {1, 2}


def test_an_unknown_specialty_is_told() -> None:
    with pytest.raises(MedcodeError, match="no specialty neurology to get more samples; there are a"):
        grow(first_samples(items("a", 60), USUAL), {"neurology": 2.0}, 2)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(20, 60), min_size=1, max_size=3),
    share=st.floats(0.3, 0.9),
    evaluation=st.floats(0.05, 0.9),
    factors=st.lists(st.floats(1.0, 4.0), min_size=1, max_size=4),
)
def test_whatever_grows_holdout_and_eval_stay_and_nothing_is_lost_or_twice(
    sizes: list[int], share: float, evaluation: float, factors: list[float]
) -> None:
    rows = [item for place, size in enumerate(sizes) for item in items(f"s{place}", size)]
    samples = first_samples(rows, Sampling(10, share, evaluation, 3))
    first = part_hashes(samples)
    for number, factor in enumerate(factors, 2):
        before = counts(samples)
        earlier = [sample for sample in samples if sample.part == "train"]
        samples, growth = grow(samples, {"s0": factor}, number)
        after = counts(samples)
        assert part_hashes(samples) == first
        assert overlaps(samples) == 0
        assert sorted(sample.item.key for sample in samples) == sorted(item.key for item in rows)
        assert [sample for sample in samples if sample.part == "train"][: len(earlier)] == earlier
        assert after["s0"].train - before["s0"].train == growth["s0"].added <= growth["s0"].wanted
        assert growth["s0"].added == growth["s0"].wanted or after["s0"].pool == 0
        assert all(after[name] == before[name] for name in before if name != "s0")
    assert {sample.part for sample in samples} <= set(PARTS)
