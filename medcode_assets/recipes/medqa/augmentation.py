"""More training examples of one question: its options in another order, asked in other words; the same answer."""

import random
from collections.abc import Iterator
from dataclasses import replace

from medcode_assets.recipes.medqa.rows import ExamRow
from medcode_assets.recipes.medqa.wording import can_be_shuffled, stays_in_place, wording


def augmented(row: ExamRow, factor: int, seed: int, *, explains: bool = False) -> Iterator[ExamRow]:
    """Yield a question and `factor - 1` others made of it.

    The text of the right option never changes, nor do the options as a set. Options that point at others stay where
    they are (`None of the above`), and where one names another by its letter, none moves.

    Args:
        row: With `cop` counted from 0.
        factor: Examples in all; each is another one, as long as there are enough orders and wordings.
        seed: Of everything drawn; the question's own text is part of it.
        explains: The explanation is trained on: where it names an option by its letter, none moves.
    """
    yield row
    if factor < 2:
        return
    rng = random.Random(f"{seed}:{row.question}:{'|'.join(row.options)}")
    orders = _orders(row, factor, rng, explains=explains)
    templates = list(wording().paraphrases[1:])
    rng.shuffle(templates)
    for number in range(factor - 1):
        order = orders[(number + 1) % len(orders)]
        template = templates[number % len(templates)]
        yield replace(
            row,
            question=template.replace("{question}", row.question),
            options=tuple(row.options[at] for at in order),
            cop=None if row.cop is None or not row.options else order.index(row.cop),
        )


def _orders(row: ExamRow, factor: int, rng: random.Random, *, explains: bool) -> list[list[int]]:
    """Return orders of the options, each another one, at most `factor`; the first is the given one."""
    given = list(range(len(row.options)))
    moving = [at for at in given if not stays_in_place(row.options[at])]
    if len(moving) < 2 or not can_be_shuffled(row.options, row.explanation if explains else ""):
        return [given]
    orders = [given]
    for _ in range(20 * factor):
        if len(orders) == factor:
            break
        shuffled = iter(rng.sample(moving, len(moving)))
        order = [next(shuffled) if at in moving else at for at in given]
        if order not in orders:
            orders.append(order)
    return orders
