"""What the numbers of a dataset mean: said, guessed, compared."""
