"""The endpoint: a registered model behind the Open Inference Protocol v2 on Ray Serve.

Read `deployment` first (what a deploy does), then `app` (what a replica does). Importing this package loads neither Ray nor a runtime.
"""

from foundry_ray.serving.client import Answer, Client, query
from foundry_ray.serving.deployment import delete, deploy, endpoints

__all__ = ["Answer", "Client", "delete", "deploy", "endpoints", "query"]
