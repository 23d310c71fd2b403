"""Artifacts: files bound to their hashes by a manifest that is written last, so that an artifact is whole or absent.

The same content has the same key, whoever publishes it and when. Every read is verified; bytes with another hash are never returned.
This is the entrance: `manifest` has the document, `blobs` and `packs` say where bytes lie, `publishing` and `fetching` move them, and
`plans` keeps publishers and collectors of garbage out of each other's way.
"""

from foundry_ray.artifacts.blobs import BlobInfo, blob_key, describe
from foundry_ray.artifacts.fetching import fetch, read_file
from foundry_ray.artifacts.manifest import Manifest, artifact_sha256, get_json, load_manifest, manifest_key, parse_manifest, put_json
from foundry_ray.artifacts.publishing import publish

__all__ = [
    "BlobInfo",
    "Manifest",
    "artifact_sha256",
    "blob_key",
    "describe",
    "fetch",
    "get_json",
    "load_manifest",
    "manifest_key",
    "parse_manifest",
    "publish",
    "put_json",
    "read_file",
]
