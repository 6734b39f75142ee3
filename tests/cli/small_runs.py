"""Settings of runs that take a second."""

FEW = ["--set", "teacher.training.epochs=2", "--set", "student.training.epochs=2"]
TINY = [*FEW, "--set", "data.train_size=100"]
