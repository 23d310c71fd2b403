"""What runs inside a Serve replica, and the builder that Serve config files name.

    import_path: foundry_ray.serving.app:build        (serve/mnist.yaml)

Decides: how a request travels from HTTP to the model and back, in the event loop without a framework in between. Leaves to others:
what a request means (`protocol`), what shares a forward pass (`batching`), rollouts (`deployment`).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from foundry_ray import __version__
from foundry_ray.config import Section, ServeConfig, Settings, StoreConfig, StoreField, signing_keys, validate
from foundry_ray.errors import ReplicaUnhealthy
from foundry_ray.serving import protocol
from foundry_ray.serving.batching import Batcher
from foundry_ray.serving.servable import Servable, load_servable
from foundry_ray.serving.spec import ReplicaSpec, open_spec_store, spec_of
from foundry_ray.types import Json

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

DEPLOYMENT = "ModelServer"
_log = logging.getLogger("ray.serve")


class ModelServer:
    """One replica. Its spec arrives as Serve's `user_config`, so that Serve itself can tell what is deployed."""

    def __init__(self) -> None:
        self._servable: Servable | None = None
        self._batcher: Batcher | None = None

    async def reconfigure(self, user_config: dict[str, Json]) -> None:
        """Load the model that the spec names; an earlier one answers until the new one has warmed up."""
        spec = validate(ReplicaSpec, user_config, where="user_config")
        servable = await asyncio.to_thread(lambda: load_servable(spec, open_spec_store(spec)))
        earlier = self._batcher
        self._servable, self._batcher = servable, Batcher(servable.run, max_requests=spec.batch_size)
        if earlier is not None:
            await earlier.close()

    def check_health(self) -> None:
        """Called by Serve. Raises ReplicaUnhealthy before a model is loaded."""
        if self._servable is None:
            raise ReplicaUnhealthy("no model is loaded, wanted one.", hint="`foundry deploy` deploys one.", reason="no model")

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        from starlette.responses import Response

        try:
            body, headers = await self._answer(request)
        except protocol.ProtocolError as error:
            return _json_response(error.document(), error.status)
        except Exception as error:  # the process border: the client gets an answer, the log the traceback
            _log.exception("the model failed")
            return _json_response({"error": f"the model failed: {error}", "got": type(error).__name__, "wanted": "logits"}, 500)
        return Response(body, headers=headers)

    async def _answer(self, request: Request) -> tuple[bytes, dict[str, str]]:
        body = await request.body()  # first: while it arrives, another version may be loaded, and one version answers a request whole
        if self._servable is None or self._batcher is None:
            raise protocol.ProtocolError(503, "no model is loaded yet.", got="starting", wanted="ready")
        model = self._servable.signature
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        verb = protocol.route(request.method, path, model)
        if verb != "infer":
            return _document(verb, model)
        parsed = protocol.parse_infer(body, request.headers.get(protocol.HEADER_LENGTH), model)
        return protocol.format_infer(parsed, await self._batcher.submit(parsed.images_NCHW), model)


def _document(verb: protocol.Verb, model: protocol.ModelSignature) -> tuple[bytes, dict[str, str]]:
    import orjson

    documents: dict[str, dict[str, Json]] = {
        "live": {"live": True},
        "ready": {"ready": True},
        "model_ready": {"name": model.name, "ready": True},
        "server": protocol.server_metadata(model, __version__),
        "model": protocol.model_metadata(model),
    }
    return orjson.dumps(documents[verb]), {"content-type": "application/json"}


def _json_response(document: dict[str, Json], status: int) -> Response:
    import orjson
    from starlette.responses import Response

    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def application(spec: ReplicaSpec) -> Application:
    """The Serve application of a spec.

    `max_surge_percent=100`: new replicas start beside the old ones, which Serve stops only when the new ones are healthy; a version that
    does not start leaves the old one serving.
    """
    from ray import serve

    deployment = serve.deployment(
        ModelServer,
        name=DEPLOYMENT,
        num_replicas=spec.num_replicas,
        max_ongoing_requests=spec.max_ongoing_requests,
        max_surge_percent=100,
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10.0,
        health_check_period_s=5.0,
        ray_actor_options={"num_cpus": spec.cpus_per_replica},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        user_config=spec.model_dump(mode="json"),
    )
    return deployment.bind()


class AppArgs(Section):
    """The `args:` of an application in a Serve config file."""

    model: str = Field(description="`name@alias`, `name:version` or `name`; resolved when the file is deployed.")
    store: StoreField = Field(StoreConfig(), description="The store: a URI, or a mapping with `uri` and settings.")
    home: str = Field(".foundry", description="FOUNDRY_HOME on the machines of the cluster.")
    serve: ServeConfig = Field(ServeConfig(), description="As `serve:` of a pipeline; the port is Serve's own.")


def build(args: dict[str, Json]) -> Application:
    """Build the application of a registered model from a Serve config file.

    Raises:
        UnknownKey, OutOfRange: With the name of the argument.
        ArtifactNotFound: No such name, alias or version.
    """
    from foundry_ray import registry
    from foundry_ray.artifacts import open_store

    parsed = validate(AppArgs, args, where="args")
    settings = Settings(home=Path(parsed.home).absolute())
    store = open_store(parsed.store, settings=settings)
    entry = registry.resolve(store, parsed.model)
    return application(spec_of(entry, parsed.serve, store=parsed.store, settings=settings, signed=signing_keys().is_checking))
