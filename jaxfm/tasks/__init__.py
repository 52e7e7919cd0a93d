"""One file a task: what to read, what to minimise, how to score."""
