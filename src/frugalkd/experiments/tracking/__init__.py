"""Experiment trackers, through Accelerate: TensorBoard, Weights & Biases, MLflow, trackio."""
