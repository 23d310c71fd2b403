"""Names of files, as Ray and Arrow choose them, and the portable keys that hold them.

Ray names folders after parameters and times, with commas, brackets, colons and spaces, which a key cannot have. Each such byte becomes `=`
and two digits, as in a URL with `=` in place of `%` (`a,b` is kept as `a=2Cb`, and `=` itself as `=3D`), so that the way back is unique.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

# `=f` begins no encoded byte, so that no name of a file is ever encoded like this.
FOLDER_MARK = "=folder"


def key_of(path: str) -> str:
    """The key of a path; slashes at its ends and double ones count for nothing. The root is empty."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    return quote("/".join(names), safe="/", errors="surrogatepass").replace("~", "%7E").replace("%", "=")


def path_of(key: str) -> str:
    """The path that `key_of` made this key of; a segment that another writer chose stays as it is."""
    return "/".join(_name_of(segment) for segment in key.split("/"))


def _name_of(segment: str) -> str:
    try:
        name = unquote(segment.replace("=", "%"), errors="surrogatepass")
    except UnicodeDecodeError:
        return segment
    return name if key_of(name) == segment else segment
