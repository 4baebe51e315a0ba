"""What recipes share that answer in words: their questions as tables, answers, measures, and the chain of assets."""
