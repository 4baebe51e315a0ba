"""Which examples a step sees, and how they are dealt to rows."""

from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.training.order import balanced_rows, grouped_rows, step_examples, steps_an_epoch


@given(examples=st.integers(1, 60), per_step=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_sees_every_example_once(examples: int, per_step: int, seed: int, epoch: int) -> None:
    steps = steps_an_epoch(examples, per_step)
    seen = [place for step in range(steps) for place in step_examples(examples, per_step, seed, epoch * steps + step)]
    assert sorted(seen) == list(range(examples))


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = {(seed, epoch): tuple(step_examples(50, 50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert step_examples(50, 50, 1, 2) == list(orders[1, 2])


@given(lengths=st.lists(st.integers(1, 4096), min_size=1, max_size=40), rows=st.integers(1, 12))
def test_rows_hold_every_example_once_and_none_is_empty(lengths: list[int], rows: int) -> None:
    for deal in (balanced_rows, grouped_rows):
        dealt = deal(lengths, rows)
        assert sorted(place for row in dealt for place in row) == list(range(len(lengths)))
        assert len(dealt) == min(rows, len(lengths))
        assert all(dealt)


@given(lengths=st.lists(st.integers(1, 4096), min_size=1, max_size=40), rows=st.integers(1, 12))
def test_balanced_rows_differ_by_no_more_than_their_longest_example(lengths: list[int], rows: int) -> None:
    tokens = [sum(lengths[place] for place in row) for row in balanced_rows(lengths, rows)]
    assert max(tokens) - min(tokens) <= max(lengths)


def test_rows_of_known_lengths() -> None:
    assert balanced_rows([5, 1, 4, 2], 2) == [[0, 1], [2, 3]]
    assert grouped_rows([5, 1, 4, 2], 2) == [[0, 2], [3, 1]]
