"""A rule of the bucket that drops uploads in parts which nobody finished: they are invisible to listings and paid for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foundry_ray.artifacts.s3.errors import code_of, is_denied, is_passing
from foundry_ray.artifacts.s3.store import S3Store

Protection = Literal["present", "added", "unsupported", "denied"]
_NUM_DAYS = 7


def ensure_lifecycle(store: S3Store) -> Protection:
    """See to it that uploads under the store's prefix are dropped 7 days after they began; the other rules of the bucket stay.

    Raises:
        StoreUnavailable: The server does not answer.
    """
    from botocore.exceptions import ClientError

    bucket, prefix = store.location
    with store.connection.translated("protect uploads in", bucket):
        client = store.client()
        try:
            known = _rules(client, bucket)
            if any(_covers(rule, prefix) for rule in known["Rules"]):
                return "present"
            wanted = {**known, "Rules": [*known["Rules"], _rule(prefix, known["Rules"])]}
            client.put_bucket_lifecycle_configuration(**_arguments(bucket, wanted))
            held = _rules(client, bucket)
        except ClientError as error:
            if is_passing(error) or code_of(error) == "NoSuchBucket":
                raise
            return "denied" if is_denied(error) else "unsupported"
    return "added" if any(_covers(rule, prefix) for rule in held["Rules"]) else "unsupported"


def _rules(client: Any, bucket: str) -> dict[str, Any]:
    """The bucket's configuration: its rules, and the smallest size of objects that they move."""
    from botocore.exceptions import ClientError

    try:
        answer = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ClientError as error:
        if code_of(error) != "NoSuchLifecycleConfiguration":
            raise
        return {"Rules": []}
    return {name: value for name, value in answer.items() if name in ("Rules", "TransitionDefaultMinimumObjectSize")}


def _arguments(bucket: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in wanted.items() if name != "Rules"}
    return {"Bucket": bucket, "LifecycleConfiguration": {"Rules": wanted["Rules"]}, **rest}


def _covers(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether a rule drops unfinished uploads of all keys under the prefix."""
    condition = rule.get("Filter", {})
    is_simple = set(condition) <= {"Prefix"}
    covered = str(rule.get("Prefix") or condition.get("Prefix") or "")
    return rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule and is_simple and prefix.startswith(covered)


def _rule(prefix: str, others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    name = hashlib.sha256(json.dumps(prefix).encode()).hexdigest()[:8]
    # Servers refuse a configuration that mixes the old form of a rule's prefix with the new one.
    where = {"Prefix": prefix} if any("Prefix" in rule for rule in others) else {"Filter": {"Prefix": prefix}}
    return {
        "ID": f"foundry-unfinished-uploads-{name}",
        "Status": "Enabled",
        **where,
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _NUM_DAYS},
    }
