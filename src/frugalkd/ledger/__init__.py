"""The per-sample record: what happened to each sample in a training."""
