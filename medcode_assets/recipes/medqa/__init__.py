"""Recipe `medqa`: multiple-choice and open medical questions, in the shape of MedMCQA."""
