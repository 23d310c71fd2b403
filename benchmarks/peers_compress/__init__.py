"""One trained model made smaller and faster by us and through other libraries, one script per contestant, one process per student.

Each script reads the teacher and the rows of `job.py` and leaves the file that it would deploy. Libraries that fine-tune do it with the rows, epochs,
optimizer, learning rate, precision and augmentation of `job.py`, as a careful user would write it by hand; others are given training rows to
calibrate on. `timing.py` times and judges all files in one process. The peers run in a virtual environment of the benchmarks, which sees the
project's packages and adds its own.
"""
