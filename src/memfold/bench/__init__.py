"""Speed and memory: each figure is a ratio of two things measured in one run, with the raw times beside it."""
