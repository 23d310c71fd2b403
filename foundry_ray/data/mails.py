"""The mails of the SpamAssassin corpus: subject and body as one text, the older groups first, the newer ones as the test split.

Headers besides the subject are left out: dates, relays and recipients tell the groups apart, and not spam from other mail.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from email import message_from_string
from email.header import decode_header, make_header
from email.message import Message
from html import unescape

from foundry_ray.errors import BadRecord

CLASSES = ("ham", "spam")
_OLDER = ("easy-ham-1", "hard-ham-1", "spam-1")
_NEWER = ("easy-ham-2", "spam-2")
_HIDDEN = re.compile(r"<(style|script)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


def parse_mails(archive: bytes, *, source: str) -> tuple[list[str], list[int], int]:
    """Texts, labels, and the number of rows of the older groups, which come first. Raises BadRecord."""
    try:
        groups = _groups(archive)
        texts = [text_of(json.loads(mail)["text"]) for group in (*_OLDER, *_NEWER) for _, mail in sorted(groups[group].items())]
    except (tarfile.TarError, EOFError, OSError, KeyError, TypeError, ValueError) as error:
        message = f"{source} is not the archive of mails that it should be: {type(error).__name__}: {error}."
        raise BadRecord(message, hint="fetch the data set again.", source=source) from error
    labels = [int(group.startswith("spam")) for group in (*_OLDER, *_NEWER) for _ in groups[group]]
    return texts, labels, sum(len(groups[group]) for group in _OLDER)


def text_of(mail: str) -> str:
    """Subject and readable text of one mail as it went over the wire; HTML without its tags."""
    message = message_from_string(mail)
    parts = [_readable(part) for part in message.walk() if part.get_content_maintype() == "text"]
    body = "\n".join(parts) if parts else mail.partition("\n\n")[2]
    return f"{_subject(message)}\n{body}".strip()


def _groups(archive: bytes) -> dict[str, dict[str, bytes]]:
    """Group -> file name -> content."""
    groups: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for name, content in _members(opened):
            _, _, group, file = name.split("/")
            groups.setdefault(group, {})[file] = content
    return groups


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if re.fullmatch(r"package/data/[a-z]+-?[a-z]*-\d/[^/]+\.json", member.name):
            opened = archive.extractfile(member)
            assert opened is not None, "the pattern matches files alone"
            yield member.name, opened.read()


def _subject(message: Message) -> str:
    raw = str(message.get("Subject", ""))
    try:
        return str(make_header(decode_header(raw)))
    except (LookupError, ValueError):  # an encoding that is none: spam is full of them
        return raw


def _readable(part: Message) -> str:
    data = part.get_payload(decode=True)
    raw = data if isinstance(data, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "latin-1", "replace")
    except LookupError:
        text = raw.decode("latin-1")
    return unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text))) if part.get_content_subtype() == "html" else text
