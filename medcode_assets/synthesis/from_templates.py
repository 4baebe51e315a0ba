"""The same output without a model: lines of the template generator, held to the same standard."""

from collections.abc import Callable, Iterator

from medcode_assets.corpora.synthetic_narratives import synthetic_lines
from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates
from medcode_assets.recipes.reasoning.formats import Line
from medcode_assets.recipes.reasoning.rules import line_problems
from medcode_assets.synthesis.replies import Standard
from medcode_assets.synthesis.tally import Tally
from medcode_serving.errors import MedcodeError

DRAWS_A_LINE = 20
"""Draws for each line that is wanted, on average; with more, the templates have no more to say."""


def template_lines(
    standard: Standard, *, seed: int, count: int, tally: Tally, on_progress: Callable[[Tally], None] | None = None
) -> Iterator[Line]:
    """Yield `count` lines without problems, of which no narrative is near another.

    Args:
        standard: What lines are held against.
        seed: Of the generator.
        count: Lines.
        tally: Counts what is accepted and rejected.
        on_progress: Told after each accepted line.

    Raises:
        MedcodeError: the templates do not give that many.
    """
    known = NearDuplicates(standard.limits.near_duplicate)
    kept: set[int] = set()
    lines = synthetic_lines(standard.stage, seed)
    for draw in range(DRAWS_A_LINE * count):
        line = next(lines)
        tally.answers += 1
        problems = line_problems(line, draw + 1, standard.stage, standard.limits, standard.tables)
        kinds = sorted({problem.kind for problem in problems})
        if not kinds and not kept.isdisjoint(known.add(draw, line.narrative)):
            kinds = ["duplicate"]
        if kinds:
            tally.rejected += 1
            tally.kinds.update(kinds)
            continue
        kept.add(draw)
        tally.accepted += 1
        yield line
        if on_progress:
            on_progress(tally)
        if tally.accepted == count:
            return
    raise MedcodeError(
        f"the templates gave {tally.accepted:,} lines of {count:,} that differ enough, in {DRAWS_A_LINE * count:,} "
        "draws; ask for fewer with --count, or ask a model"
    )
