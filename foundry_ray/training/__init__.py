"""How weights are learnt: the loop, the engines under it, checkpoints, what to do when workers fail, and Ray Train around it all.

`loop.py` is pure torch. `engine.py` runs it in one process, `deepspeed/` on many ranks; `group.py` alone imports Ray. Importing
this package imports neither torch nor ray; take what you need from its modules.
"""

from __future__ import annotations

__all__: list[str] = []
