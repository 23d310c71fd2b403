"""The pages of a listing: complete, or an error. A server that repeats itself must neither loop for ever nor pass for complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from foundry_ray.errors import StoreError


def pages(client: Any, *, bucket: str, prefix: str, uri: str, page_size: int | None = None) -> Iterator[list[Any]]:
    """The entries (`Key`, `Size`, `LastModified`) page by page, as the server orders them.

    Raises:
        StoreError: The server says that there is more and gives the same page again, or no way to ask on.
    """
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if page_size is not None:
        options["MaxKeys"] = page_size
    starts: set[str] = set()
    tokens: set[str] = set()
    while True:
        page = client.list_objects_v2(**options)
        entries = list(page.get("Contents", ()))
        if entries and entries[0]["Key"] in starts:
            raise _endless(uri, prefix)
        if entries:
            starts.add(entries[0]["Key"])
            yield entries
        if not page.get("IsTruncated"):
            return
        token = str(page.get("NextContinuationToken", ""))
        if not token or token in tokens:
            raise _endless(uri, prefix)
        tokens.add(token)
        options["ContinuationToken"] = token


def _endless(uri: str, prefix: str) -> StoreError:
    message = f"{uri} lists {prefix or 'its objects'} without end: it says that there is more and gives the same page again."
    return StoreError(message, hint="use a server that honours continuation-token; `foundry doctor` probes it anew.")
