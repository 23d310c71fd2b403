"""Requests per second and latency of an endpoint that runs, under the load of serve/load.yaml.

python -m benchmarks.serving http://127.0.0.1:8000/mnist
"""

from __future__ import annotations

import statistics
import sys
import threading
import time

import numpy as np
import yaml

from benchmarks.record import ROOT, Claim
from foundry_ray.serving import Client
from foundry_ray.serving.rollout import percentile


def _ask(url: str, images: np.ndarray, *, binary: bool, until_s: float, latencies: list[float]) -> None:
    with Client(url) as client:
        client.infer(images, binary=binary)
        while time.monotonic() < until_s:
            latencies.append(client.infer(images, binary=binary).latency_ms)


def measure(url: str, images: np.ndarray, *, clients: int, binary: bool, seconds: float) -> dict[str, float]:
    """Drive an endpoint with closed-loop clients; latencies are round trips in ms."""
    latencies: list[float] = []
    arguments = {"binary": binary, "until_s": time.monotonic() + seconds, "latencies": latencies}
    threads = [threading.Thread(target=_ask, args=(url, images), kwargs=arguments) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "clients": clients,
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": statistics.median(latencies),
        "p95_ms": percentile(latencies, 0.95),
        "p99_ms": percentile(latencies, 0.99),
    }


def main() -> None:
    """One claim per number of clients and body."""
    if len(sys.argv) != 2:
        sys.exit("got no address, wanted one: `foundry endpoints list` prints it")
    url = sys.argv[1]
    profile = yaml.safe_load((ROOT / "serve" / "load.yaml").read_text())
    with Client(url) as client:
        model = client.get(f"/v2/models/{client.get('/v2')['models'][0]}")  # type: ignore[index,call-overload]
    shape = model["inputs"][0]["shape"][1:]  # type: ignore[index,call-overload]
    images = np.random.default_rng(0).integers(0, 256, (profile["images_per_request"], *shape)).astype(np.uint8)  # type: ignore[misc]
    for body in profile["bodies"]:
        for clients in profile["clients"]:
            run = measure(url, images, clients=clients, binary=body == "binary", seconds=profile["seconds"])
            claim = f"requests per second of the endpoint, {clients} clients, {body}, stock proxy"
            Claim(name=f"serving_{body}_{clients}", claim=claim, value=run["requests_per_s"], unit="req/s", runs=[run], peers=run).write()


if __name__ == "__main__":
    main()
