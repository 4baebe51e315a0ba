"""What the model is asked, in each stage: the one place for training, evaluation and serving."""

SYSTEM = {
    1: "Give the billing code of this case.",
    2: "Give your reasoning, then the billing code of this case.",
    3: "Give your reasoning, then the billing code of this case.",
}
"""System message by stage. Serving asks as the stage did whose adapter is served."""
