"""Which lines go together, and to which split."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.corpus.splits import SPLITS, Clusters

line_lists = st.lists(
    st.tuples(st.integers(0, 40).map("narrative {}".format), st.none() | st.sampled_from(["p1", "p2", "p3"])),
    min_size=1,
    max_size=30,
)


def _clusters(lines: list[tuple[str, str | None]], joins: list[tuple[int, int]] = ()) -> Clusters:
    clusters = Clusters()
    for narrative, group in lines:
        clusters.add(narrative, group)
    for one, other in joins:
        clusters.join(one % len(lines), other % len(lines))
    return clusters


def _splits(clusters: Clusters, seed: int = 0) -> list[str]:
    return [clusters.split(number, seed, 0.3, 0.3) for number in range(len(clusters))]


def test_groups_and_equal_narratives_are_clusters_and_joins_reach_far() -> None:
    clusters = _clusters([("a", "p"), ("b", None), ("c", "p"), ("B ", None), ("d", None), ("e", None)])
    roots = [clusters.root(number) for number in range(6)]
    assert roots[0] == roots[2]
    assert roots[1] == roots[3]
    assert len(set(roots)) == 4
    assert clusters.sizes() == [2, 2, 1, 1]
    clusters.join(2, 4)
    clusters.join(4, 3)
    assert clusters.sizes() == [5, 1]
    assert len({clusters.root(number) for number in range(5)}) == 1


@given(line_lists, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20), st.randoms())
def test_splits_do_not_depend_on_the_order_of_lines_and_joins(
    lines: list[tuple[str, str | None]], joins: list[tuple[int, int]], random: object
) -> None:
    clusters = _clusters(lines, joins)
    expected = _splits(clusters)
    for number in range(len(lines)):
        assert expected[number] == expected[clusters.root(number)]
    order = list(range(len(lines)))
    random.shuffle(order)  # type: ignore[attr-defined]
    place = {number: position for position, number in enumerate(order)}
    size = len(lines)
    moved = [(place[one % size], place[other % size]) for one, other in reversed(joins)]
    shuffled = _splits(_clusters([lines[number] for number in order], moved))
    assert [shuffled[place[number]] for number in range(size)] == expected


@given(line_lists, line_lists)
def test_adding_lines_moves_only_the_clusters_that_they_join(
    lines: list[tuple[str, str | None]], added: list[tuple[str, str | None]]
) -> None:
    before = _splits(_clusters(lines))
    clusters = _clusters(lines + added)
    after = _splits(clusters)
    joined = {clusters.root(number) for number in range(len(lines), len(lines) + len(added))}
    for number, split in enumerate(before):
        assert after[number] == split or clusters.root(number) in joined


@given(line_lists, st.integers(0, 20).map("other {}".format))
def test_another_line_of_a_known_patient_moves_nobody(lines: list[tuple[str, str | None]], narrative: str) -> None:
    known = [("first", "p1"), *lines]
    assert _splits(_clusters([*known, (narrative, "p1")]))[: len(known)] == _splits(_clusters(known))


def test_shares_are_met_whatever_the_clusters_sizes() -> None:
    clusters = Clusters()
    for cluster in range(4000):
        first = clusters.add(f"narrative {cluster}", None)
        for twin in range(cluster % 4):
            clusters.join(first, clusters.add(f"twin {twin} of {cluster}", None))
    splits = Counter(clusters.split(number, 7, 0.1, 0.2) for number in range(len(clusters)))
    assert set(splits) == set(SPLITS)
    assert splits["validation"] / len(clusters) == pytest.approx(0.1, abs=0.02)
    assert splits["test"] / len(clusters) == pytest.approx(0.2, abs=0.03)


def test_another_seed_splits_otherwise() -> None:
    clusters = _clusters([(f"narrative {number}", None) for number in range(50)])
    assert _splits(clusters, 1) == _splits(clusters, 1) != _splits(clusters, 2)
