"""One file for each task: goal, words, predicate and scripted plan."""
