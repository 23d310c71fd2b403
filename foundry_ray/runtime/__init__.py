"""Where it runs: the Ray session, the local head, the environment of started processes, submitted jobs, and the clock.

Read `session` first (what every stage uses), then `local_head` (what `cluster: local` starts) and `jobs` (how a whole run is sent
to a cluster). Importing this package loads no Ray.
"""
