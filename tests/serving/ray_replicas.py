"""Run by test_ray: two replicas behind Ray's proxy, one of them killed under load; prints counts as JSON.

    python -m tests.serving.ray_replicas BUNDLE PORT

A process of its own: Ray's sockets and threads outlive a test, and its settings are environment variables.
"""

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests.support.serving import Running, picture, until

TOKEN = {"Authorization": "Bearer a-token-of-some-length"}


def replicas() -> list[int]:
    """Process ids of the replicas that descend from this process."""
    parents, found = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "stat").read_text().rpartition(")")[2].split()
            parents[int(place.name)] = int(words[1])
            if (place / "cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                found.append(int(place.name))
        except OSError:
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in found if ours(pid)]


def main(bundle: str, port: int) -> None:
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    from vitrail.serving.ray import deploy, import_serve

    serve = import_serve()
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    how = {"device": "cpu", "precision": "fp32", "token": "a-token-of-some-length"}
    deploy({"small": bundle}, port=port, replicas=2, **how)
    server = Running(port, None, None)  # pyrefly: ignore[bad-argument-type]
    pictures = [picture(seed) for seed in range(8)]
    expected = [server.post("/predict", one, **TOKEN).json["answers"] for one in pictures]
    counts: Counter[str] = Counter()
    stop = threading.Event()

    def load(seed: int) -> None:
        while not stop.is_set():
            found = server.post("/predict", pictures[seed % 8], **TOKEN)
            right = found.status == 200 and found.json["answers"] == expected[seed % 8]
            counts["right" if right else f"status {found.status}" if found.status != 200 else "wrong"] += 1
            seed += 1

    clients = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    assert until(lambda: counts["right"] > 50, 60)
    before = replicas()
    os.kill(before[0], signal.SIGKILL)
    back = until(lambda: len(set(replicas()) - {before[0]}) == 2, 120)
    time.sleep(3)
    stop.set()
    for client in clients:
        client.join()
    report = {"counts": counts, "replicas": len(before), "back": back, "expected": expected}
    print(json.dumps({**report, "without_token": server.post("/predict", pictures[0]).status}))
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
