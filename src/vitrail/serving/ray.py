"""The same application on Ray Serve: more processes and more machines. Ray schedules and scales; the bounds are ours.

    from vitrail.serving.ray import deploy

    deploy({"photos": "runs/photos-1"}, replicas=2)      # http://127.0.0.1:8000/ until Ray is shut down

Every replica opens and checks the models itself, at a path that each machine has. Set RAY_AUTH_MODE=token before Ray
starts on more than one machine: Ray's own ports trust everybody who reaches them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from vitrail.errors import ConfigError
from vitrail.serving.guard import LOCAL
from vitrail.serving.limits import Limits


def ray_application(
    models: Mapping[str, str | Path], *, replicas: int = 1, cpus: float = 1.0, gpus: float = 0.0, **how: Any
) -> Any:
    """A Ray Serve application, for `serve.run`. `how` is what `vitrail.serving.app.build` takes.

    A replica takes as many requests as our queue holds, and Ray's proxies hold as many again; what comes then is refused
    with 503. Raises ConfigError where Ray is missing.
    """
    serve = import_serve()
    limits = how.setdefault("limits", Limits())
    paths = {name: str(path) for name, path in models.items()}

    def build_app() -> ASGIApp:
        import torch

        from vitrail import machine
        from vitrail.serving.app import build

        torch.set_num_threads(max(1, int(cpus)))
        machine.leave_threads_to_model()
        return build(paths, **how)[1]

    deployment = serve.deployment(
        serve.ingress(build_app)(),
        name="vitrail",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=limits.queue,
        max_queued_requests=limits.queue,
        graceful_shutdown_timeout_s=limits.drain,
        health_check_period_s=2,
        health_check_timeout_s=10,
    )
    return deployment.bind()


def deploy(
    models: Mapping[str, str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    replicas: int = 1,
    **how: Any,
) -> Any:
    """Starts replicas behind Ray's proxy on `host` and `port`, and gives the handle. Raises ConfigError."""
    if host not in LOCAL and not token:
        raise ConfigError(f"host = {host} without a token", next_step="give a token")
    serve = import_serve()
    serve.start(http_options={"host": host, "port": port})
    hosts = [*LOCAL, host]
    app = ray_application(models, replicas=replicas, hosts=hosts, addresses=host not in LOCAL, token=token, **how)
    return serve.run(app, name="vitrail", route_prefix="/")


def import_serve() -> Any:
    """Ray Serve. Raises ConfigError where it is missing.

    Where Ray starts after this, its workers keep the priority of this process. Ray lowers it by 15: beside other work its
    proxy then does not start within the 60 s that Ray gives it.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        from ray import serve
    except ImportError:
        raise ConfigError("Ray Serve is not installed", next_step="pip install 'vitrail[ray]'") from None
    return serve
