"""Finding out what an endpoint does, by doing it: some twenty small requests under `probe/`, which is empty again afterwards.

Decides: what is asked, what an answer proves, and what makes an endpoint unusable. Stores lie in ways that lose data: bodies stored with
their framing or not at all, listings that end after the first page, conditional writes that overwrite. `capabilities` says and remembers what
was found; what stands in for what is missing lies in `store`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from foundry_ray.artifacts.s3 import listing
from foundry_ray.artifacts.s3.capabilities import Capabilities
from foundry_ray.artifacts.s3.connection import Connection
from foundry_ray.artifacts.s3.errors import ABSENT, DAMAGED, EXISTS, client_errors, code_of, is_denied, is_passing
from foundry_ray.artifacts.s3.store import S3Store, encryption_of, tagging_of
from foundry_ray.errors import StoreError
from foundry_ray.protocols import Clock

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

__all__ = ["Capabilities", "probe"]

_BODY = b"0123456789 what was written is what is read"
_RACED = "B"
_FIRST = "aa"
# With these, every order but that of the bytes shows: by folders, without case, by the words of a language.
_OTHERS = ("a-b", "a.b", "a/x", "a=b", "aB", "a_b")
_PAGE_SIZE = 3
_NUM_RACERS = 4
_LISTING_LAG_S = 10.0
_POLL_S = 0.2
_ANOTHER = "use another server, or `store: embedded` or `store: file:///path`."


def probe(store: S3Store, clock: Clock) -> Capabilities:
    """What the endpoint of a store does; its bucket exists and its credentials may list it.

    Raises:
        StoreError: It cannot be used: it gives back other bytes, no ranges or listings with holes, or does not encrypt or tag as asked.
        StoreUnavailable: It stopped answering.
    """
    scratch = _Scratch(store)
    with store.connection.translated("probe", scratch.folder):
        try:
            refused = _find_a_write(scratch)
            if refused is not None:
                return _without_writes(scratch, refused)
            _check_reading(scratch)
            _check_encryption(scratch)
            _check_tags(scratch)
            create_only = _creates_only(scratch)
            with ThreadPoolExecutor(_NUM_RACERS) as pool:
                list(pool.map(lambda name: scratch.put(name, _BODY), _OTHERS))
            lists_at_once, in_order, in_pages = _look_at_listing(scratch, clock)
            delete_many = _deletes_many(scratch)
        finally:
            is_clean = scratch.clean()
        return Capabilities(
            create_only=create_only,
            delete_many=delete_many,
            deletes=is_clean,
            streamed_checksums=scratch.has_checksums,
            lists_after_write=lists_at_once,
            lists_in_key_order=in_order,
            pages_listings=in_pages,
        )


class _Scratch:
    """The objects of one probe, by name under a folder of its own."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.connection: Connection = store.connection
        self.bucket, prefix = store.location
        self.folder = f"{prefix}probe/{uuid.uuid4().hex}/"
        self.has_checksums = store.config.checksums != "when_required"
        self.extra: Mapping[str, str] = store.extra()
        self.written: dict[tuple[str, str], None] = {}  # key and version, in order
        self._doubtful: set[str] = set()  # keys of writes whose answer did not arrive

    @property
    def client(self) -> Any:
        return self.connection.client(has_checksums=self.has_checksums)

    @property
    def names(self) -> list[str]:
        return sorted({key[len(self.folder) :] for key, _ in self.written})

    def put(self, name: str, body: bytes, **condition: str) -> None:
        """Write an object. Raises ClientError."""
        from botocore.exceptions import ClientError

        key = self.folder + name
        self._doubtful.add(key)
        try:
            answer = self.client.put_object(Bucket=self.bucket, Key=key, **self.extra, **condition, Body=body)
        except ClientError as error:
            if not is_passing(error):
                self._doubtful.discard(key)
            raise
        self._doubtful.discard(key)
        self.written[key, answer.get("VersionId", "")] = None

    def get(self, name: str, **range_: str) -> bytes | None:
        """What an object, or a range of it, holds; None where the server refuses to say, or says that it is something else."""
        from botocore.exceptions import ClientError, FlexibleChecksumError

        try:
            with closing(self.client.get_object(Bucket=self.bucket, Key=self.folder + name, **range_)["Body"]) as body:
                data: bytes = body.read()
        except ClientError as error:
            if is_passing(error) or is_denied(error):
                raise
            return None
        except FlexibleChecksumError:  # these bytes have not the checksum that came with them
            return None
        return data

    def creates(self, name: str, body: bytes) -> bool:
        """Whether a create-only write went through."""
        from botocore.exceptions import ClientError

        try:
            self.put(name, body, IfNoneMatch="*")
        except ClientError as error:
            if is_passing(error) and code_of(error) not in EXISTS:
                raise
            return False
        return True

    def has(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.head_object(Bucket=self.bucket, Key=self.folder + name)
        except ClientError as error:
            if code_of(error) not in ABSENT:
                raise
            return False
        return True

    def clean(self) -> bool:
        """Remove what was written, its versions too. Whether that is allowed."""
        is_allowed = True
        for key, version in [*self.written, *((key, "") for key in self._doubtful)]:
            named = [{"VersionId": version}, {}] if version else [{}]
            is_allowed = any(self._is_deleted(key, which) for which in named) and is_allowed
        return is_allowed

    def _is_deleted(self, key: str, which: Mapping[str, str]) -> bool:
        with suppress(*client_errors()):
            self.client.delete_object(Bucket=self.bucket, Key=key, **which)
            return True
        return False


def _find_a_write(scratch: _Scratch) -> ClientError | None:
    """Settle whether requests carry checksums. Returns the refusal where no way to write works."""
    extra, checksums = scratch.extra, scratch.store.config.checksums
    refusal = None
    for has_checksums in {"auto": (True, False), "always": (True,), "when_required": (False,)}[checksums]:
        scratch.has_checksums = has_checksums
        refused = _refusal(scratch)
        if refused is None:
            return None
        refusal = refused
    assert refusal is not None, "at least one way was tried"
    for key, alone in (("encryption", encryption_of(scratch.store.config)), ("tags", tagging_of(scratch.store.config))):
        scratch.extra = alone
        if alone and _refusal(scratch) is not None:
            scratch.extra = {}
            if _refusal(scratch) is None:
                message = f"{scratch.store.uri} refuses writes with `store.{key}` ({code_of(refusal)})."
                raise StoreError(message, hint=f"remove `store.{key}`, or grant its rights to these credentials.")
    scratch.extra = extra
    return refusal


def _refusal(scratch: _Scratch) -> ClientError | None:
    """Why a write did not go through. Other bytes than were written count as a refusal as long as there is another way to write."""
    from botocore.exceptions import ClientError

    try:
        scratch.put(_FIRST, _BODY)
    except ClientError as error:
        if is_passing(error) and code_of(error) not in DAMAGED:  # a gateway that misreads checksums sees damage every time
            raise
        return error
    held = scratch.get(_FIRST)
    if held == _BODY:
        return None
    if scratch.has_checksums and scratch.store.config.checksums == "auto":
        return ClientError({"Error": {"Code": "OtherBytes"}}, "GetObject")
    raise _unusable(scratch, f"confirms {len(_BODY)} bytes and then gives back {'nothing' if held is None else f'{len(held)} others'}")


def _without_writes(scratch: _Scratch, refused: ClientError) -> Capabilities:
    if is_denied(refused) or code_of(refused) == "MethodNotAllowed":
        return Capabilities(is_read_only=True)
    if scratch.store.config.checksums == "always":
        message = f"{scratch.store.uri} refuses requests with checksums ({code_of(refused)})."
        raise StoreError(message, hint="set `store.checksums: auto`.")
    raise refused


def _check_reading(scratch: _Scratch) -> None:
    newer = _BODY[::-1]
    scratch.put(_FIRST, newer)
    if scratch.get(_FIRST) != newer:
        raise _unusable(scratch, "gives back what an object held before it was replaced")
    if scratch.get(_FIRST, Range="bytes=3-6") != newer[3:7]:
        raise _unusable(scratch, "ignores ranges, so that no part of an object can be read")


def _check_encryption(scratch: _Scratch) -> None:
    wanted = scratch.extra.get("ServerSideEncryption")
    if wanted is None:
        return
    head = scratch.client.head_object(Bucket=scratch.bucket, Key=scratch.folder + _FIRST)
    if head.get("ServerSideEncryption") != wanted:
        message = f"{scratch.store.uri} took a write with `store.encryption: {wanted}` and does not confirm that it is encrypted."
        raise StoreError(message, hint="use a server that encrypts, or remove `store.encryption`.")


def _check_tags(scratch: _Scratch) -> None:
    from botocore.exceptions import ClientError

    wanted = scratch.store.config.tags
    if not wanted:
        return
    try:
        answer = scratch.client.get_object_tagging(Bucket=scratch.bucket, Key=scratch.folder + _FIRST)
    except ClientError as error:
        if is_denied(error):
            return  # it took them; reading them back is another right
        answer = {}
    if {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())} != dict(wanted):
        message = f"{scratch.store.uri} took a write with `store.tags` and does not keep them."
        raise StoreError(message, hint="use a server that has tags, or remove `store.tags`.")


def _creates_only(scratch: _Scratch) -> bool:
    with ThreadPoolExecutor(_NUM_RACERS) as pool:
        won = list(pool.map(lambda number: scratch.creates(_RACED, b"%d" % number), range(_NUM_RACERS)))
    is_refused_later = not scratch.creates(_RACED, b"later")
    # No winner is one whose answer was lost; without the object, it is a server that refuses the header.
    return won.count(True) <= 1 and is_refused_later and scratch.has(_RACED)


def _look_at_listing(scratch: _Scratch, clock: Clock) -> tuple[bool, bool, bool]:
    """Whether the listing shows all objects at once, in key order, in pages. Raises StoreError where it never shows them all."""
    wanted = scratch.names
    deadline_s = clock.monotonic_s() + _LISTING_LAG_S
    is_first_look = True
    while True:
        pages = list(listing.pages(scratch.client, bucket=scratch.bucket, prefix=scratch.folder, uri=scratch.store.uri, page_size=_PAGE_SIZE))
        found = [entry["Key"][len(scratch.folder) :] for page in pages for entry in page]
        if sorted(found) == wanted:
            return is_first_look, found == wanted, len(pages) > 1
        if clock.monotonic_s() > deadline_s:
            lacking = f"lists {len(set(found))} of the {len(wanted)} objects that were written {_LISTING_LAG_S:.0f} s ago, in {len(pages)} pages"
            raise _unusable(scratch, lacking)
        is_first_look = False
        clock.sleep(_POLL_S)


def _deletes_many(scratch: _Scratch) -> bool:
    from botocore.exceptions import ClientError

    objects = [{"Key": key, **({"VersionId": version} if version else {})} for key, version in scratch.written]
    try:
        answer = scratch.client.delete_objects(Bucket=scratch.bucket, Delete={"Objects": objects, "Quiet": True})
    except ClientError as error:
        if is_passing(error):
            raise
        return False
    if answer.get("Errors") or any(scratch.has(name) for name in (_FIRST, _RACED)):
        return False
    scratch.written.clear()
    return True


def _unusable(scratch: _Scratch, what: str) -> StoreError:
    return StoreError(f"{scratch.store.uri} cannot be used: it {what}.", hint=_ANOTHER)
