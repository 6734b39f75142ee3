"""The training loop, its settings, evaluation and checkpoints."""
