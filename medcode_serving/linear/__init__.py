"""A coder without a neural network: three scorers of codes, and a logistic regression that weighs them.

    text.py      a note as phrases, hashed TF-IDF columns and sentences of stems
    phrases.py   words and pairs of words that a code's training notes have and others have not
    ridge.py     one-vs-rest ridge regression on a random projection of TF-IDF
    titles.py    how much of a code's title stands in one sentence of the note
    model.py     candidates, their features, their probabilities
    files.py     what is written and read

What fits them is `medcode_assets.baselines`. numpy only.
"""
