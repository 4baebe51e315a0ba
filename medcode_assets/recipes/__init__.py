"""What is learned: one folder a recipe, and the factory that gives each the same chain of assets."""
