import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.evaluation.text_metrics.answer_statistics import mean_statistics, with_intervals
from medcode_assets.evaluation.text_metrics.choices import accuracy, chosen_option
from medcode_assets.evaluation.text_metrics.measure import measure_text
from medcode_assets.evaluation.text_metrics.squad import exact_match, normalise_answer, token_f1
from medcode_serving.errors import MedcodeError

pytest.importorskip("sacrebleu", reason="needs medcode[text-metrics]")
pytest.importorskip("rouge_score", reason="needs medcode[text-metrics]")

ANSWER = "the patient takes metformin twice daily"
REFERENCE = "the patient takes insulin twice daily at home"
OVERLAP = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_1", "rouge_2", "rouge_l", "exact_match", "token_f1"}


def values(answers, references):
    return {metric.name: metric.value for metric in measure_text(answers, references).metrics}


def test_bleu_by_hand():
    # Answer 6 words, reference 8: brevity penalty exp(1 - 8/6). Matches: 5 of 6 words, 3 of 5 pairs (the patient,
    # patient takes, twice daily), 1 of 4 triples (the patient takes), 0 of 3 quadruples: smoothed, 1/2 of one.
    found, penalty = values([ANSWER], [[REFERENCE]]), math.exp(1 - 8 / 6)
    precisions = [5 / 6, 3 / 5, 1 / 4, 1 / 2 / 3]
    for order in (1, 2, 3, 4):
        assert found[f"bleu_{order}"] == pytest.approx(penalty * math.prod(precisions[:order]) ** (1 / order))


def test_bleu_sums_over_the_corpus_before_it_divides():
    # 1 of 1 and 1 of 3 words match: 2 of 4, not the mean of 1 and 1/3. Lengths 4 and 4: no penalty.
    assert values(["fever", "no pain today"], [["fever"], ["pain was severe"]])["bleu_1"] == pytest.approx(2 / 4)


def test_bleu_of_several_references_takes_the_closest_length_and_any_match():
    # Words: takes (first), insulin (second) of 2; the closest length is 2.
    assert values(["takes insulin"], [["she takes metformin daily", "insulin stopped"]])["bleu_1"] == 1.0


def test_right_answers_of_one_word_have_bleu_4_of_1():
    assert values(["pneumonia", "sepsis"], [["pneumonia"], ["sepsis"]])["bleu_4"] == 1.0


def test_rouge_by_hand():
    # F = 2 shared / (6 + 8) words: 5 shared. Pairs: 5 and 7, 3 shared. Longest common subsequence: the patient takes
    # twice daily, 5.
    found = values([ANSWER], [[REFERENCE]])
    assert found["rouge_1"] == pytest.approx(2 * 5 / 14)
    assert found["rouge_2"] == pytest.approx(2 * 3 / 12)
    assert found["rouge_l"] == pytest.approx(2 * 5 / 14)


def test_rouge_l_needs_the_order_and_stems_words():
    # All 3 words by stem. Backwards, no two of them are in the same order: the longest common subsequence is 1.
    found = values(["rest and fluids"], [["fluids and resting"]])
    assert found["rouge_1"] == 1.0
    assert found["rouge_l"] == pytest.approx(2 * 1 / 6)


def test_squad_by_hand():
    assert normalise_answer(" The  Patient, (aged 70) has A fever! ") == "patient aged 70 has fever"
    assert exact_match("The fever.", ["cough", "fever"]) == 1.0
    assert exact_match("high fever", ["fever"]) == 0.0
    # Without `the`: 5 words and 7, 4 shared: P 4/5, R 4/7, F1 8/12.
    assert token_f1(ANSWER, [REFERENCE]) == pytest.approx(8 / 12)
    # A word counts as often as both have it: 1 of 3 and 1 of 1: F1 2/4.
    assert token_f1("pain pain pain", ["pain"]) == pytest.approx(2 / 4)
    assert token_f1("high fever", ["cough", "fever"]) == pytest.approx(2 / 3)


def test_empty_answers_score_zero_and_do_not_crash():
    found = values(["", "  "], [["metformin twice daily"], ["fever"]])
    assert set(found) == OVERLAP
    assert set(found.values()) == {0.0}
    assert token_f1("", [""]) == token_f1("the", [""]) == exact_match("", ["a"]) == 1.0  # nothing asked, nothing said


def test_bad_input_is_refused():
    with pytest.raises(MedcodeError, match="no answers"):
        measure_text([], [])
    with pytest.raises(ValueError, match="1 answers and 2 lists"):
        measure_text(["a"], [["a"], ["b"]])
    for references in ([[]], ["fever"]):  # a bare string would be read as references of one letter each
        with pytest.raises(ValueError, match="answer 0 needs a list"):
            measure_text(["fever"], references)


def test_what_is_not_computed_says_why_and_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # as if it were not installed
    measured = measure_text(["fever"], [["fever"]])
    assert "pip install 'medcode[text-metrics]'" in measured.skipped["bleu_1"]
    assert "hub id" in measured.skipped["bertscore_f1"]
    assert measured.metric("exact_match").value == 1.0
    with pytest.raises(KeyError):
        measured.metric("bleu_1")


words = st.sampled_from(["fever", "cough", "the", "insulin", "takes", "daily", "no", "70", "mg", "pain", "."])
texts = st.lists(words, max_size=8).map(" ".join)
corpora = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=6)
@given(corpora, st.randoms(use_true_random=False))
def test_within_bounds_and_the_order_does_not_matter(corpus, shuffler):
    measured = measure_text(*zip(*corpus, strict=True))
    assert {metric.name for metric in measured.metrics} >= OVERLAP
    for metric in measured.metrics:
        assert 0 <= metric.low <= metric.value + 1e-9 <= metric.high + 2e-9 <= 1 + 2e-9
    shuffler.shuffle(corpus)
    assert measure_text(*zip(*corpus, strict=True)) == measured


@settings(deadline=None, max_examples=6)
@given(st.lists(st.lists(st.sampled_from(["fever", "cough", "70"]), min_size=2, max_size=8), min_size=1, max_size=4))
def test_an_identical_answer_scores_1_in_every_overlap_metric(corpus):
    answers = [" ".join(answer) for answer in corpus]
    measured = measure_text(answers, [["something else", answer] for answer in answers])
    for name in OVERLAP:
        metric = measured.metric(name)
        assert (metric.low, metric.value, metric.high) == pytest.approx((1, 1, 1))


def test_bleu_of_summed_statistics_is_corpus_bleu():
    import sacrebleu

    shuffler = random.Random(0)
    vocabulary = [f"w{number}" for number in range(12)]
    answers, first, second = ([" ".join(shuffler.choices(vocabulary, k=15)) for _ in range(20)] for _ in range(3))
    whole = sacrebleu.BLEU().corpus_score(answers, [first, second])
    measured = measure_text(answers, list(zip(first, second, strict=True))).metric("bleu_4")
    assert measured.value == pytest.approx(whole.score / 100)
    assert measured.low < measured.value < measured.high
    assert "nrefs:2|case:mixed|eff:yes|tok:13a|smooth:exp" in measured.how


def test_an_interval_ends_at_what_the_metric_can_be():
    # 19 of 20 right: 0.95 ± 1.96 · sqrt(0.95 · 0.05 / 20) = 0.95 ± 0.096, cut at 1. And the other way round at 0.
    rows = np.array([[1.0, 0.0]] * 19 + [[0.0, 1.0]])
    right, wrong = with_intervals(mean_statistics(rows, ("right", "wrong"), "by hand"))
    assert (right.low, right.high) == (pytest.approx(0.854, abs=0.05), 1.0)
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(0.146, abs=0.05))


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    # 400 answers, half right: 0.5 ± 1.96 · sqrt(0.25 / 400) = 0.5 ± 0.049.
    rows = np.repeat([0.0, 1.0], 200)[:, None]
    (metric,) = with_intervals(mean_statistics(rows, ("accuracy",), "by hand"))
    assert (metric.low, metric.value, metric.high) == pytest.approx((0.451, 0.5, 0.549), abs=0.006)


# One synset: pill and tablet.
WORDNET_HEADER = "  1 WordNet 3.0 Copyright 2006 by nobody  \n"


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk", reason="needs medcode[text-metrics]")
    folder = tmp_path / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"{part}.exc").write_text("")
        for kind in ("data", "index"):
            (folder / f"{kind}.{part}").write_text(WORDNET_HEADER)
    place = f"{len(WORDNET_HEADER):08d}"
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tnoun.all\t1\n")
    (folder / "data.noun").write_text(f"{WORDNET_HEADER}{place} 01 n 02 pill 0 tablet 0 000 | made for this test  \n")
    (folder / "index.noun").write_text(
        WORDNET_HEADER + "".join(f"{word} n 1 0 1 0 {place}  \n" for word in ("pill", "tablet"))
    )
    for name in ("cntlist.rev", "index.sense"):
        (folder / name).write_text("")
    use_nltk_data(monkeypatch, nltk, tmp_path)


def use_nltk_data(monkeypatch, nltk, folder):
    """Let nltk look for WordNet in one folder only, whatever this machine has and this process has loaded."""
    from nltk.corpus import CorpusReader, LazyCorpusLoader, WordNetCorpusReader

    multilingual = LazyCorpusLoader("omw-2.0", CorpusReader, r".*\.tab")
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    monkeypatch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, multilingual))


def test_meteor_by_hand(wordnet):
    # F = PR / (0.9 P + 0.1 R), penalty 0.5 (chunks / matches)³.
    # "one tablet daily" of "one pill daily": 3 of 3 in one chunk: 1 - 0.5 / 27.
    assert values(["one tablet daily"], [["one pill daily"]])["meteor"] == pytest.approx(1 - 0.5 / 27)
    # "one drop daily": 2 of 3, two chunks: P = R = F = 2/3, halved.
    assert values(["one drop daily"], [["one pill daily"]])["meteor"] == pytest.approx(1 / 3)
    # "pills" of "one pill daily", by stem: P 1, R 1/3: F = (1/3) / (0.9 + 1/30), halved.
    assert values(["pills"], [["one pill daily"]])["meteor"] == pytest.approx((1 / 3) / (0.9 + 1 / 30) / 2)
    # The best of several references counts.
    assert values(["one drop daily"], [["no", "one drop daily"]])["meteor"] == pytest.approx(1 - 0.5 / 27)


def test_meteor_without_wordnet_is_skipped_and_not_another_number(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk", reason="needs medcode[text-metrics]")
    use_nltk_data(monkeypatch, nltk, tmp_path)
    measured = measure_text([ANSWER], [[REFERENCE]])
    assert "python -m nltk.downloader -d DIR wordnet" in measured.skipped["meteor"]
    assert "NLTK_DATA=DIR" in measured.skipped["meteor"]
    assert "\n" not in measured.skipped["meteor"]


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", "B"),
        (" (b) ", "B"),
        ("**C**", "C"),
        ("D. Metformin", "D"),
        ("a) Metformin", "A"),
        ("A - Metformin", "A"),
        ("B\nbecause it is first-line", "B"),
        ("Metformin is first-line, so the answer is B.", "B"),
        ("**Answer:** (C)", "C"),
        ("A. aspirin\nB. heparin\nThe correct option is B", "B"),  # it lists, then chooses
        ("A. aspirin\nB. heparin", None),
        ("The answer is A. No, the answer is B.", None),
        ("Answer: **B** or **C**", None),
        ("A patient with fever", None),
        ("Vitamin B is lacking", None),
        ("The answer is a beta blocker", None),
        ("A-fib", None),
        ("E", None),
        ("", None),
    ],
)
def test_which_option_an_answer_chooses(answer, option):
    assert chosen_option(answer) == option


def test_accuracy_counts_the_unparsable_as_wrong():
    found = accuracy(["A", "the answer is B", "no idea", "C"], ["A", "B", "C", "D"])
    assert found.accuracy.value == 2 / 4  # A and B; C was D
    assert (found.unparsable, found.answers) == (1, 4)
    assert found.accuracy.low <= 0.5 <= found.accuracy.high
    assert accuracy(["C", "no idea", "the answer is B", "A"], ["D", "C", "B", "A"]) == found
    assert accuracy(["E"], ["E"], options="ABCDE").accuracy.value == 1.0


def test_accuracy_refuses_bad_input():
    with pytest.raises(MedcodeError, match="no answers"):
        accuracy([], [])
    with pytest.raises(ValueError, match="1 answers and 0"):
        accuracy(["A"], [])
    with pytest.raises(ValueError, match="not among the options A, B, C, D"):
        accuracy(["A"], ["a"])
