"""Random draws, devices, memory, imports and meters."""
