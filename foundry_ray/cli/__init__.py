"""The command line: parse, call one function, print. It holds no logic of its own; its names are a contract.

Importing it costs typer alone: every command imports what it calls. Documents go to stdout, everything else to stderr.
"""

from foundry_ray.cli.main import main

__all__ = ["main"]
