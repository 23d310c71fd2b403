"""A store in a bucket of any S3-compatible server, over boto3. The only place that imports boto3.

`opening` is where a section of the pipeline becomes a store; `store` is what it then does.
"""

from foundry_ray.artifacts.s3.client import Endpoint
from foundry_ray.artifacts.s3.store import S3Store

__all__ = ["Endpoint", "S3Store"]
