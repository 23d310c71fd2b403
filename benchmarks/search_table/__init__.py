"""A table of students' learning curves, and studies that are played on it in simulated epochs."""
