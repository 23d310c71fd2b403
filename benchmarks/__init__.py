"""One script per claim. Each measures on this machine and writes `benchmarks/results/NAME.json`; nobody writes such a file by hand."""
