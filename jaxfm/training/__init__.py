"""State, optimizer, step, evaluation, checkpoints and the loop."""
