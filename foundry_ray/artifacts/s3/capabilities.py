"""What an endpoint can do, how that is said, and how it is remembered for a day.

A memory holds no secret. It is named by everything that changes what a probe finds: the endpoint, the bucket, the prefix, how requests are
made, and the version of foundry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from foundry_ray.types import FORMAT_VERSION

_log = logging.getLogger(__name__)
_LIFE_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """What an endpoint lacks and what is done instead; `fix` where a run needs it."""

    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an endpoint does. The defaults are those of a server that is known and not probed; only its order of listing is left open.

    Attributes:
        create_only: PutObject honours `If-None-Match: *`, also in a race.
        delete_many: DeleteObjects works.
        deletes: Deleting is allowed.
        streamed_checksums: Requests may carry checksums, over https in trailers.
        lists_after_write: An object is listed as soon as it is written.
        lists_in_key_order: Keys are listed in the order of their bytes.
        pages_listings: `max-keys` is honoured.
        is_read_only: These credentials may not write; nothing else was found out.
    """

    create_only: bool = True
    delete_many: bool = True
    deletes: bool = True
    streamed_checksums: bool = True
    lists_after_write: bool = True
    lists_in_key_order: bool = False
    pages_listings: bool = True
    is_read_only: bool = False

    def lacks(self, *, is_single_writer: bool) -> tuple[Lack, ...]:
        """What the endpoint lacks, the gravest first; `is_single_writer` as `store.single_writer` says."""
        if self.is_read_only:
            return (Lack(text="the right to write (it is open for reading; what writes is refused)"),)
        told = (
            (self.create_only, _NO_CREATE_ONLY_ALONE if is_single_writer else _NO_CREATE_ONLY),
            (self.deletes, Lack(text="the right to delete (`foundry store gc` frees nothing, and the objects of this probe stay under probe/)")),
            (self.delete_many or not self.deletes, Lack(text="DeleteObjects (objects are deleted one by one)")),
            (self.streamed_checksums, Lack(text="checksums in requests (they are left out; uploads and reads are verified all the same)")),
            (self.lists_after_write, Lack(text="listings that show what was just written (`runs list` and `store gc` see it seconds later)")),
            (self.lists_in_key_order, Lack(text="listings in key order (they are collected and sorted)")),
            (self.pages_listings, Lack(text="listings in pages (they come in one answer, however long)")),
        )
        return tuple(lack for is_there, lack in told if not is_there)


_NO_CREATE_ONLY = Lack(
    text="create-only writes, `If-None-Match: *` (promotion, resume and leases are refused)",
    fix="set `store.single_writer: true` if one process at a time writes, or use a server that honours `If-None-Match: *`",
)
_NO_CREATE_ONLY_ALONE = Lack(
    text="create-only writes, `If-None-Match: *` (a look before each write stands in, as `store.single_writer: true` promises one writing process)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A file that holds what a probe found.

    Args:
        path: Under FOUNDRY_HOME/probes.
        probed_at_s: When the probe ran, in seconds since the epoch; None where nothing is remembered yet.
    """

    path: Path
    probed_at_s: float | None = None

    def read(self, now_s: float) -> tuple[Capabilities, Memory] | None:
        """What was found less than a day ago; None where nothing was, or where the file is not readable."""
        try:
            document = json.loads(self.path.read_bytes())
            probed_at_s = float(document["probed_at_s"])
            known = {field.name: document["capabilities"][field.name] for field in fields(Capabilities)}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not 0 <= now_s - probed_at_s < _LIFE_S or not all(isinstance(value, bool) for value in known.values()):
            return None
        return Capabilities(**known), replace(self, probed_at_s=probed_at_s)

    def write(self, found: Capabilities, *, uri: str, probed_at_s: float) -> Memory:
        """Remember. Where the folder cannot be written, the next command probes again."""
        document = {"format_version": FORMAT_VERSION, "uri": uri, "probed_at_s": probed_at_s, "capabilities": asdict(found)}
        temporary = self.path.with_name(f"~{uuid.uuid4().hex}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                json.dump(document, stream)
            temporary.replace(self.path)
        except OSError as error:
            _log.warning("What %s can do is not remembered: %s.", uri, error.strerror)
        return replace(self, probed_at_s=probed_at_s)


def memory_of(home: Path, **asked: object) -> Memory:
    """The memory of an endpoint that is asked like this; `asked` is hashed, and so may be long but not secret."""
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    return Memory(path=home / "probes" / f"{mark[:32]}.json")
