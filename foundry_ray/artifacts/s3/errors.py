"""What a client's error means to the callers of a store.

Decides: which answers are conflicts, denials, passing failures or settings that cannot work. Messages name the store and the key; they hold
neither credentials nor what a server wrote beyond its error code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict, FoundryError, StoreDenied, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

EXISTS = frozenset({"409", "412", "ConditionalRequestConflict", "PreconditionFailed"})
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
BEYOND_END = frozenset({"416", "InvalidRange"})
_DENIED = frozenset(
    {"401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
)
DAMAGED = frozenset({"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_PASSING = frozenset({"429", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What messages may say about a store.

    Attributes:
        uri: What users call it.
        address: Scheme, host and port that were asked; empty where they are not known.
        unreachable_hint: What to do where nobody answers.
        denied_hint: What to do where the credentials are refused.
    """

    uri: str
    bucket: str
    address: str = ""
    unreachable_hint: str = ""
    denied_hint: str = ""


def client_errors() -> tuple[type[Exception], ...]:
    """Everything that a client, and boto3's transfers, raise on purpose."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    return ClientError, BotoCoreError, Boto3Error, RetriesExceededError, ValueError


def meaning(error: Exception, *, action: str, key: str, place: Place) -> FoundryError:
    """The error of the tree that one of `client_errors` stands for."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return _refusal(error, action, key, place)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError)):
        return _denied(f"no usable credentials were found ({type(error).__name__})", place)
    if isinstance(error, (boto.ParamValidationError, boto.ProfileNotFound, boto.NoRegionError, boto.ConfigParseError, ValueError)):
        hint = "check the bucket's name, `store.profile` or AWS_PROFILE, `store.region`, and `store.endpoint` or AWS_ENDPOINT_URL."
        return ConfigError(f"the settings of {place.uri} are not usable: {_without_user(str(error))}.", hint=hint)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "`store.ca_bundle: /path/ca.pem` (or AWS_CA_BUNDLE) trusts an authority of your own."
        return ConfigError(f"{place.uri} answers at {place.address} with a certificate that is not trusted.", hint=hint)
    hint = "check `store.proxy`, HTTPS_PROXY and HTTP_PROXY." if isinstance(error, boto.ProxyConnectionError) else place.unreachable_hint
    message = f"{place.uri} did not answer at {place.address} when asked to {action} {key or 'its objects'} ({type(error).__name__})."
    return StoreUnavailable(message, hint=hint, uri=place.uri)


def code_of(error: ClientError) -> str:
    """The error code of an answer, "404" where it has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer; 0 where it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_denied(error: ClientError) -> bool:
    """Whether the credentials, or their rights, are refused."""
    return code_of(error) in _DENIED or status_of(error) in (401, 403)


def is_passing(error: ClientError) -> bool:
    """Whether the same request may succeed later."""
    return code_of(error) in _PASSING | DAMAGED or (status_of(error) >= 500 and status_of(error) != 501)


def refused_deletions(errors: list[Any], place: Place) -> StoreError:
    """What the `Errors` of a DeleteObjects answer stand for; there is at least one."""
    codes = sorted({str(error.get("Code", "")) for error in errors})
    message = f"{place.uri} did not delete {len(errors)} objects, {errors[0].get('Key')} among them: it answered {', '.join(codes)}."
    if any(code in _DENIED for code in codes):
        return StoreDenied(message, hint=place.denied_hint, uri=place.uri)
    if all(code in _PASSING for code in codes):
        return StoreUnavailable(message, hint=place.unreachable_hint, uri=place.uri)
    return StoreError(message, hint="`foundry doctor` checks the store.")


def _refusal(error: ClientError, action: str, key: str, place: Place) -> FoundryError:
    code, uri = code_of(error), place.uri
    if code == "NoSuchBucket":
        return ConfigError(f"{uri}: there is no bucket {place.bucket!r}.", hint=f"`aws s3 mb s3://{place.bucket}` creates it.")
    if code in ABSENT:
        return ArtifactNotFound(f"{key} is not in {uri}.", hint="`foundry runs list` shows what the store holds.", key=key)
    if code in EXISTS:
        return Conflict(f"{key} exists already in {uri}.", hint="read it, then decide again.", key=key)
    if code in DAMAGED:
        message = f"{uri} received other bytes than were sent when asked to {action} {key} ({code})."
        return StoreUnavailable(message, hint="something on the way damages bodies; https protects them.", uri=uri)
    if code == "400" and action != "look at":  # only the answers to HEAD have no body by right
        message = f"{uri} answered 400 without a reason when asked to {action} {key}."
        return StoreUnavailable(message, hint=place.unreachable_hint, uri=uri)
    if is_denied(error):
        return _denied(f"it answered {code} to {action} {key}", place)
    if is_passing(error):
        return StoreUnavailable(f"{uri} answered {code} when asked to {action} {key}.", hint=place.unreachable_hint, uri=uri)
    message = f"{uri} answered {code} ({status_of(error)}) when asked to {action} {key}."
    return StoreError(message, hint="`foundry doctor` checks the store; see also `store.region` and AWS_REGION.")


def _denied(reason: str, place: Place) -> StoreDenied:
    return StoreDenied(f"{place.uri} refused: {reason}.", hint=place.denied_hint, uri=place.uri)


def _without_user(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
