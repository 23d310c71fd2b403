"""The same training job by hand and through other libraries, one script per contestant, one process per rank.

Each script trains the model of `job.py` on the rows of `job.py`, at the same batch, optimizer, learning rates, precision, memory format and
augmentation, as a careful user of that library would write it: no DataLoader workers to feed, rows in memory, nothing logged. `launch.py`
starts the ranks; the peers run in a virtual environment of the benchmarks, which sees the project's packages and adds its own.
"""
