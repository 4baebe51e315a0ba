"""Real questions, cut by subject: nothing of them is shown, and the files are gone with the test."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from medcode_assets.recipes.specialty.sampling import Sampling, counts, first_samples, grow, overlaps, part_hashes
from medcode_assets.recipes.specialty.sources import read_folder

MEDMCQA = Path(__file__).parents[5] / "shared" / "data" / "medmcqa" / "dev-half.jsonl"
USUAL = Sampling(holdout=10, train_share=0.5, eval_share=0.2, seed=0)


@pytest.mark.skipif(not MEDMCQA.exists(), reason=f"{MEDMCQA} is not here")
def test_medmcqa_cut_by_subject(tmp_path: Path) -> None:
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    for line in MEDMCQA.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        options = [one[f"op{letter}"] for letter in "abcd"]
        subject = one["subject_name"].lower().replace(" ", "_")
        rows[subject].append(
            {"id": one["id"], "question": one["question"], "options": options, "answer": options[one["cop"] - 1]}
        )
    usable = {subject: own for subject, own in rows.items() if len(own) >= 14}
    for subject, own in usable.items():
        (tmp_path / f"dataset_with_answers_{subject}.json").write_text(json.dumps(own), encoding="utf-8")
    found = read_folder(tmp_path)
    assert found.read.keys() == usable.keys()
    assert len(found.items) + sum(one.duplicates for one in found.read.values()) == sum(map(len, usable.values()))
    assert sum(item.correct is not None for item in found.items) > 0.98 * len(found.items)
    samples = first_samples(found.items, USUAL)
    grown, _ = grow(samples, dict.fromkeys(usable, 1.5), 2)
    assert all(one.holdout == 10 for one in counts(grown).values())
    assert part_hashes(grown) == part_hashes(samples)
    assert overlaps(grown) == 0
