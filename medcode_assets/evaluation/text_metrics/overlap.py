"""BLEU, ROUGE and METEOR: words and word sequences that an answer shares with its references."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.text_metrics.answer_statistics import AnswerStatistics, mean_statistics
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

Pairs = Sequence[tuple[str, tuple[str, ...]]]
"""Each answer with its references."""

LONGEST_NGRAM = 4


def bleu_statistics(pairs: Pairs) -> AnswerStatistics:
    """Return what corpus BLEU-1 to BLEU-4 are computed from (Papineni et al., ACL 2002; Post, WMT 2018).

    BLEU-N is cumulative: the geometric mean of the corpus' precisions of 1 to N words, times the brevity penalty
    against the reference that is closest in length. sacrebleu's defaults: tokenizer 13a, case kept, smoothing
    `exp`, which halves a missing precision (1/2, 1/4, … of one match). Not a default is `eff:yes`: orders that no
    answer is long enough for are left out, so that right answers of one word do not score 0. As soon as one
    answer has N words, BLEU-N is that of `eff:no`.

    Returns:
        Rows of lengths of answer and closest reference, then matches of 1 to 4 words, then n-grams of 1 to 4 words.
    """
    import numpy as np
    import sacrebleu

    bleu = sacrebleu.BLEU(effective_order=True)
    rows = []
    for answer, references in pairs:
        score = bleu.sentence_score(answer, references)
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    numbers = {len(references) for _, references in pairs}
    how = (
        f"sacrebleu nrefs:{numbers.pop() if len(numbers) == 1 else 'var'}|case:mixed|eff:yes|tok:13a|smooth:exp"
        f"|version:{sacrebleu.__version__}"
    )
    metrics = {f"bleu_{order}": _corpus_bleu(order) for order in range(1, LONGEST_NGRAM + 1)}
    return AnswerStatistics(np.array(rows, dtype=np.float64), metrics, how)


def _corpus_bleu(order: int) -> "Callable[[np.ndarray], np.ndarray]":
    """Return the function from summed rows [columns, samples] to BLEU of an order [samples], in [0, 1]."""
    import numpy as np
    from sacrebleu import BLEU

    def of_sums(answer_length: int, reference_length: int, *counts: int) -> float:
        score: float = BLEU.compute_bleu(
            correct=list(counts[:order]),
            total=list(counts[LONGEST_NGRAM : LONGEST_NGRAM + order]),
            sys_len=answer_length,
            ref_len=reference_length,
            smooth_method="exp",
            effective_order=True,
            max_ngram_order=order,
        ).score
        return min(score / 100, 1.0)  # exp(mean(log 100)) may be a rounding error above 100

    return lambda sums: np.array([of_sums(*sample) for sample in sums.T.astype(np.int64).tolist()])


def rouge_statistics(pairs: Pairs) -> AnswerStatistics:
    """Return the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, best over references (Lin, 2004).

    ROUGE-L takes the longest common subsequence of the whole texts, not sentence by sentence. The library's words
    are runs of a-z and 0-9 in lower case, stemmed by Porter: other alphabets score 0. An answer of one word has no
    word pair, so its ROUGE-2 is 0 even if it is right.
    """
    from importlib.metadata import version

    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()), use_stemmer=True)
    scored = (scorer.score_multi(references, answer) for answer, references in pairs)
    rows = np.array([[scores[kind].fmeasure for kind in kinds.values()] for scores in scored], dtype=np.float64)
    return mean_statistics(rows, tuple(kinds), f"rouge-score {version('rouge-score')}, F-measure, Porter stemmer")


def meteor_statistics(pairs: Pairs) -> AnswerStatistics:
    """Return METEOR, best over references (Banerjee and Lavie, 2005; parameters of Lavie and Agarwal, WMT 2007).

    Words match exactly, then by Porter stem, then as WordNet synonyms; recall weighs nine times precision
    (α = 0.9, β = 3, γ = 0.5). A right answer of m words scores 1 - 0.5 / m³, not 1: it is one chunk. nltk looks
    synonyms up by stem, so it finds fewer than the original. Words are those of BLEU's tokenizer 13a, lower case.

    Raises:
        MedcodeError: WordNet is not on this machine. Without synonyms the number would be another metric's.
    """
    import nltk

    wordnet = nltk.corpus.wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise MedcodeError(
            "METEOR needs WordNet, which nltk finds in none of its folders; on a machine with network run "
            "`python -m nltk.downloader -d DIR wordnet`, then set NLTK_DATA=DIR here"
        ) from None
    how = f"nltk {nltk.__version__}, WordNet {wordnet.get_version()}, tok:13a, lower case"
    return _meteor(pairs, wordnet, "meteor", how)


def stem_meteor_statistics(pairs: Pairs) -> AnswerStatistics:
    """Return METEOR without its last step, synonyms: `meteor_exact_stem`, which needs no WordNet.

    Words match exactly, then by Porter stem. It is METEOR at most, and a number of its own: none to compare with METEOR
    of a paper.
    """
    import nltk

    how = f"nltk {nltk.__version__}, exact and stem matches only, tok:13a, lower case"
    return _meteor(pairs, _NoSynonyms, "meteor_exact_stem", how)


class _NoSynonyms:
    """Stands in for WordNet and knows no word."""

    @staticmethod
    def synsets(word: str) -> list[str]:
        return []


def _meteor(pairs: Pairs, wordnet: Any, name: str, how: str) -> AnswerStatistics:
    import numpy as np
    from nltk.translate.meteor_score import meteor_score
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    rows = [
        [meteor_score([tokenize(text).split() for text in references], tokenize(answer).split(), wordnet=wordnet)]
        for answer, references in pairs
    ]
    return mean_statistics(np.array(rows, dtype=np.float64), (name,), how)
