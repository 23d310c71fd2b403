"""Is anybody there, and do they let us in: answered in about a second, before Ray is asked, which retries for twenty.

Speaks one call of Ray's wire protocol (the first one that every driver makes) and looks at nothing but the status code.
"""

from __future__ import annotations

from pathlib import Path

from foundry_ray.errors import ClusterDenied, ClusterUnreachable
from foundry_ray.protocols import Clock
from foundry_ray.runtime import ports

_FIRST_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_CALL_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 2.0


def probe(address: str, token_path: Path | None, clock: Clock, timeout_s: float) -> None:
    """Check that a GCS listens at host:port and takes the token.

    Args:
        address: host:port.
        token_path: File with the token; None: no token is shown.
        clock: Time.
        timeout_s: Longest wait. A refused connection is final at once; silence is waited out.

    Raises:
        ClusterUnreachable: Nothing listens there.
        ClusterDenied: The token is wrong or missing.
    """
    host, _, port = address.rpartition(":")
    if not ports.is_listening(int(port), host.strip("[]"), timeout_s=min(_CONNECT_TIMEOUT_S, timeout_s)):
        raise ClusterUnreachable(
            f"No Ray cluster answers at {address}.",
            hint="check the address and that the head runs there; `cluster: local` starts one here.",
            address=address,
        )
    token = token_path.read_text(encoding="utf-8").strip() if token_path else None
    if _refuses(address, token, min(_CALL_TIMEOUT_S, timeout_s)):
        said = "wants a token and got none" if token is None else f"refuses the token in {token_path}"
        raise ClusterDenied(f"The Ray cluster at {address} {said}.", hint="set FOUNDRY_TOKEN_PATH to the file that holds its token.", address=address)


def _refuses(address: str, token: str | None, timeout_s: float) -> bool:
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_FIRST_CALL)(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            # Any other failure (TLS, another protocol, a slow start) is Ray's to judge.
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False
