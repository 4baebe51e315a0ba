"""Where in a note a code comes from.

spans.py       stretches of the submitted text: what every method answers
sentences.py   where the sentences of a clinical note begin and end
negation.py    what a sentence says is not there
lexical.py     by words: the code's title, and phrases that the linear model learned; milliseconds
occlusion.py   by leaving parts of the note out and asking the language model again; many forward passes
"""
