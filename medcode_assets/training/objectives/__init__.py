"""What training makes better: one small module an objective."""
