"""frugalkd inside the trainers that people already use; each module needs its own extra."""
