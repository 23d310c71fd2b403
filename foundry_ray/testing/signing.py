"""Signatures of S3 requests (AWS Signature Version 4), for gateways that change what a client signed.

A gateway that drops a signed header or asks something of its own signs the new request with the account of the server behind it; requests that
it does not touch keep the client's signature, so that wrong credentials are still refused.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from foundry_ray.testing.exchanges import Request

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """An account of the server behind a gateway."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"

    def sign(self, request: Request) -> Request:
        """The request with a signature that fits it; as it was where nobody, or another account, had signed it."""
        date = request.header("x-amz-date")
        if date is None or self.access_key not in (request.header("authorization") or ""):
            return request
        covered = request.header("x-amz-content-sha256") or "UNSIGNED-PAYLOAD"
        if not covered.startswith(("UNSIGNED", "STREAMING")):
            request = request.having(x_amz_content_sha256=hashlib.sha256(request.body).hexdigest())
        names = sorted({name.lower() for name, _ in request.headers if name.lower() == "host" or name.lower().startswith("x-amz-")})
        scope = f"{date[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join([_ALGORITHM, date, scope, hashlib.sha256(_canonical(request, names).encode()).hexdigest()])
        signature = hmac.new(self._key(date[:8]), text.encode(), hashlib.sha256).hexdigest()
        value = f"{_ALGORITHM} Credential={self.access_key}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
        return request.having(authorization=value)

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self.secret_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key


def _canonical(request: Request, names: list[str]) -> str:
    parts = urlsplit(request.target)
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in parts.query.split("&") if part))
    headers = [f"{name}:{' '.join((request.header(name) or '').split())}" for name in names]
    return "\n".join([request.method, parts.path, query, *headers, "", ";".join(names), request.header("x-amz-content-sha256") or ""])
