"""The application on Ray Serve, with Ray's own proxy and two replicas."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import unpickling
from tests.support.serving import picture, running

pytestmark = [pytest.mark.deep, pytest.mark.fault]


def test_one_of_two_replicas_is_killed_under_load_and_no_answer_is_wrong(bundle: Path) -> None:
    """Requests that the killed replica held may fail; no answer differs from that of a server without Ray."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vitrail[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "tests.serving.ray_replicas", str(bundle), str(port)]
    # Ray's processes pickle to each other: what is watched is this package
    env = {name: value for name, value in os.environ.items() if name != unpickling.LOG}
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, cwd=root, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"counts"')))
    print(f"\nRay: {found['counts']}, replicas back: {found['back']}")
    with running({"small": bundle}) as server:
        alone = [server.post("/predict", picture(seed)).json["answers"] for seed in range(8)]
    for ours, theirs in zip(alone, found["expected"], strict=True):
        assert ours[0]["labels"] == theirs[0]["labels"]
        assert ours[0]["probabilities"] == pytest.approx(theirs[0]["probabilities"], abs=1e-6)
    assert (found["replicas"], found["back"], found["without_token"]) == (2, True, 401)
    assert found["counts"].get("wrong", 0) == 0 and found["counts"]["right"] > 50
