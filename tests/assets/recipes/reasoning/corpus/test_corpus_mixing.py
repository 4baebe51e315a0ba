"""Mixing sources by weight."""

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.corpus.mixing import mix

finite_sources = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 30), max_size=5)


def _items(name: str, number: int) -> Iterator[tuple[str, int]]:
    return ((name, place) for place in range(number))


@given(finite_sources, st.integers(0, 1000), st.data())
def test_every_item_comes_once_and_in_its_sources_order(sizes: dict[str, int], seed: int, data: st.DataObject) -> None:
    weights = {name: data.draw(st.floats(0.01, 100)) for name in sizes}
    drawn = list(mix({name: _items(name, size) for name, size in sizes.items()}, weights, seed))
    assert all(name == item[0] for name, item in drawn)
    for name, size in sizes.items():
        assert [item[1] for own, item in drawn if own == name] == list(range(size))
    backwards = dict(reversed(list(sizes.items())))
    assert drawn == list(mix({name: _items(name, size) for name, size in backwards.items()}, weights, seed))


def test_another_seed_gives_another_order() -> None:
    def drawn(seed: int) -> list[str]:
        return [name for name, _ in islice(mix({"a": count(), "b": count()}, {"a": 1, "b": 1}, seed), 50)]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_honoured(seed: int) -> None:
    mixed = mix({"a": count(), "b": count(), "c": count()}, {"a": 5.0, "b": 2.5, "c": 0.5}, seed)
    names = Counter(name for name, _ in islice(mixed, 8000))
    # 5000, 2500 and 500 expected; their standard deviations are 43, 41 and 22.
    assert names["a"] == pytest.approx(5000, abs=180)
    assert names["b"] == pytest.approx(2500, abs=180)
    assert names["c"] == pytest.approx(500, abs=100)


def test_when_one_runs_dry_the_others_keep_their_proportion() -> None:
    mixed = mix({"short": _items("short", 10), "a": count(), "b": count()}, {"short": 8, "a": 3, "b": 1}, 0)
    names = [name for name, _ in islice(mixed, 4010)]
    assert names.count("short") == 10
    assert names.count("a") == pytest.approx(3000, abs=120)


def test_nothing_is_read_before_its_turn() -> None:
    read: list[int] = []
    mixed = mix({"a": (read.append(number) or number for number in count())}, {"a": 1}, 0)
    assert [item for _, item in islice(mixed, 3)] == [0, 1, 2] == read
