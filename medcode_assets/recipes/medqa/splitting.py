"""Which questions train, and which are held out: near-identical ones never on both sides."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from medcode_assets.recipes.medqa.rows import ExamRow
from medcode_serving.errors import MedcodeError

PROTECTED = ("test", "validation", "train")
"""A question that is nearly in two splits of a source stays in the first of these."""


@dataclass(frozen=True)
class Keyed:
    """A question with what near-identical ones share."""

    row: ExamRow
    key: str
    split: str = ""


def with_splits(
    rows: Sequence[Keyed], seed: int, validation_share: float, test_share: float
) -> tuple[list[Keyed], int, str]:
    """Return questions in their splits, how many were left out, and in words how that was done.

    A source's own splits are kept. What it has not is drawn from its training questions by a hash of what
    near-identical questions share, so that more questions move none of the others. A source whose test split has no
    answers, as MedMCQA's, is tested on its validation split, as the literature does.

    Args:
        rows: Questions with answers.
        seed: Of the draw.
        validation_share: Of what is drawn from.
        test_share: As validation_share.

    Raises:
        MedcodeError: the source has held-out splits only.
    """
    own = {one.row.split for one in rows} - {None}
    if own and "train" not in own:
        raise MedcodeError(
            f"the source has answers in its splits {' and '.join(sorted(map(str, own)))} only, and nothing to train "
            "on; name one of its files as medqa.source to have that split"
        )
    renamed = {"validation": "test"} if own == {"train", "validation"} else {}
    given = [replace(one, split=renamed.get(one.row.split or "train", one.row.split or "train")) for one in rows]
    kept = _each_in_one(given)
    has = {one.split for one in kept}
    shares = (0.0 if "test" in has else test_share, 0.0 if "validation" in has else validation_share)
    drawn = [replace(one, split=_draw(one.key, seed, *shares)) if one.split == "train" else one for one in kept]
    return drawn, len(given) - len(kept), _how(own, renamed, has)


def _each_in_one(rows: Sequence[Keyed]) -> list[Keyed]:
    """Leave out what is nearly in a more protected split."""
    place = {split: rank for rank, split in enumerate(PROTECTED)}
    best: dict[str, int] = {}
    for one in rows:
        best[one.key] = min(best.get(one.key, len(PROTECTED)), place[one.split])
    return [one for one in rows if place[one.split] == best[one.key]]


def _draw(key: str, seed: int, test_share: float, validation_share: float) -> str:
    number = _fraction(f"{seed}:{key}")
    if number < test_share:
        return "test"
    return "validation" if number < test_share + validation_share else "train"


def _how(own: Iterable[str | None], renamed: dict[str, str], has: set[str]) -> str:
    missing = [split for split in ("validation", "test") if split not in has]
    if not set(own):
        return "drawn"
    told = "the source's own"
    if renamed:
        told += ", its validation split as test, for it has no test split with answers"
    return f"{told}; {' and '.join(missing)} drawn from train" if missing else told


def sample(rows: Sequence[Keyed], most: int, seed: int) -> list[Keyed]:
    """Return at most so many questions (0: all) in their order, each subject in proportion, the same ones each time."""
    if not most or len(rows) <= most:
        return list(rows)
    counts = Counter(one.row.subject for one in rows)
    quotas = _quotas(counts, most)
    chosen: set[int] = set()
    taken: Counter[str] = Counter()
    ranked = sorted(range(len(rows)), key=lambda at: (_fraction(f"{seed}:{rows[at].key}"), at))
    for at in ranked:
        subject = rows[at].row.subject
        if taken[subject] < quotas[subject]:
            taken[subject] += 1
            chosen.add(at)
    return [one for at, one in enumerate(rows) if at in chosen]


def _quotas(counts: Counter[str], most: int) -> dict[str, int]:
    """Share `most` out in proportion, by largest remainders; ties go by name."""
    total = counts.total()
    exact = {subject: most * count / total for subject, count in counts.items()}
    quotas = {subject: int(share) for subject, share in exact.items()}
    rest = most - sum(quotas.values())
    for subject in sorted(exact, key=lambda name: (quotas[name] - exact[name], name))[:rest]:
        quotas[subject] += 1
    return quotas


def _fraction(text: str) -> float:
    """Return a number in [0, 1) that a text always has."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64
