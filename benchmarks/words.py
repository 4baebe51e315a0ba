"""How fast answers in words are written: engine `llamacpp` beside engine `transformers`, over one exported bundle.

    python benchmarks/words.py --home .medcode --recipe consult   # `medcode demo --recipe consult` makes one

Both take turns in one run, each in a process of its own with as many threads, on made questions; alone (one client) and
as many at a time as the engine takes. The table is Markdown, for docs/performance.md. The home is only read.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from own_process import Held, Taken
from token_speed import ratio


class Answering:
    """An engine over a recipe's newest bundle, as `medcode serve` builds it."""

    def __init__(self, home: Path, recipe: str, settings: dict[str, Any]) -> None:
        from medcode_serving.bundle import latest_bundle
        from medcode_serving.engines.loading import load_engine
        from medcode_serving.settings import load_inference_settings

        chosen = load_inference_settings(**{"device": "cpu", "model.home": home, **settings})
        self._engine = load_engine(latest_bundle(home / "bundles", recipe), chosen, home / "base_models")

    def answer(self, questions: Sequence[str], at_once: int) -> list[tuple[str, int]]:
        """Return text and tokens of each answer, `at_once` asked for together."""
        found = []
        for start in range(0, len(questions), at_once):
            for prediction in self._engine.predict(questions[start : start + at_once]):
                assert prediction.written is not None
                found.append((prediction.written.text, prediction.written.tokens))
        return found


def made_questions(count: int) -> list[str]:
    """Return questions of patients, none twice."""
    from medcode_assets.corpora.synthetic_conversations import synthetic_conversations

    rows = (row["Patient"] for row in synthetic_conversations(20 * count, seed=77))
    return list(islice(dict.fromkeys(text for text in rows if text), count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MEDCODE_HOME", ".medcode")))
    parser.add_argument("--recipe", default="consult", help="One that answers in words.")
    parser.add_argument("--formats", default="q8_0", help="Number formats that the bundle was exported in.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each side has its turn; medians are shown.")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="Of each side.")
    parser.add_argument("--questions", type=int, default=24)
    options = parser.parse_args()
    os.environ.update({"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(options.threads)})
    llamacpp = {"model.engine": "llamacpp", "llamacpp.threads": options.threads}
    engines: dict[str, dict[str, Any]] = {
        "transformers": {"model.engine": "transformers"},
        **{f"llamacpp, {name}": {**llamacpp, "llamacpp.quantization": name} for name in options.formats.split(",")},
    }
    questions = made_questions(options.questions)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.threads} threads a side")
    columns = ("engine", "at once", "tokens/s", "times transformers", "CPU ms a token", "equal answers")
    print("| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))
    with ExitStack() as stack:
        held = {
            name: stack.enter_context(Held(Answering, options.home, options.recipe, settings))
            for name, settings in engines.items()
        }
        for at_once in (1, 16):
            taken: dict[str, list[Taken]] = {name: [] for name in engines}
            for _ in range(options.rounds):
                for name, engine in held.items():
                    taken[name].append(engine.ask("answer", questions, at_once))
            report(taken, at_once)


def report(taken: dict[str, list[Taken]], at_once: int) -> None:
    """Print a row an engine."""
    first = taken["transformers"]
    for name, turns in taken.items():
        speeds, theirs = ([_tokens(turn) / turn.seconds for turn in one] for one in (turns, first))
        cpu = statistics.median(1_000 * turn.cpu_seconds / _tokens(turn) for turn in turns)
        equal = sum(one == other for one, other in zip(turns[0].result, first[0].result, strict=True))
        times = "" if turns is first else ratio(speeds, theirs)
        counts = f"{equal}/{len(turns[0].result)}"
        print(f"| {name} | {at_once} | {statistics.median(speeds):.0f} | {times} | {cpu:.1f} | {counts} |", flush=True)


def _tokens(turn: Taken) -> int:
    return sum(tokens for _, tokens in turn.result)


if __name__ == "__main__":
    main()
