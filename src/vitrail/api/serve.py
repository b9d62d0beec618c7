"""`vitrail.serve`: a model answers over HTTP, and shows a page."""

import asyncio
import functools
import importlib.util
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from vitrail.arguments import EngineName, Precision
from vitrail.errors import ConfigError
from vitrail.serving.limits import Limits

Models = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def serve(
    models: Models, *, host: str = "127.0.0.1", port: int = 8000, token_file: str | Path | None = None,
    names: Collection[str] = (), engine: EngineName = "auto", device: str = "auto", precision: Precision = "auto", batch: int = 0,
    queue: int = 64, watch: float = 0.0, quiet: bool = False,
) -> None:  # fmt: skip
    """Answers over HTTP until SIGTERM or Ctrl-C: `/predict`, `/look`, `/embed`, the Open Inference Protocol, and a page at `/`.

        vitrail.serve("runs/photos-1")

    Exported graphs give labels and no maps. Raises ConfigError, WeightsError, DoesNotApply.

    Args:
        models: Run folders, bundles, weights files or exported graphs; NAME=PATH, or a mapping, gives one another name.
        host: The address to listen on. Another than this machine's own needs a token.
        port: 0 takes any free one, and says which.
        token_file: A file whose first line every request must show: Authorization: Bearer TOKEN.
        names: Further names by which clients call this machine, such as that of a proxy.
        batch: Images computed together; 0 is 1 on a CPU, where a batch is no faster, and 32 elsewhere.
        queue: Images that may wait; what comes then is refused at once.
        watch: Look for changed weights every so many seconds; 0 never does, SIGHUP always.
    """
    check_numbers(queue, batch, watch)
    token, local = read_token(token_file), is_local(host)
    refuse_open_door(host, local, token)
    refuse_running_loop()
    paths = named(models)
    from vitrail import machine
    from vitrail.processes.signals import ignored
    from vitrail.serving.app import build
    from vitrail.serving.guard import LOCAL
    from vitrail.serving.server import build_server, listen

    # "reload" while the models are read would end the process, and systemd takes that for a wish
    with listen(host, port) as listening, machine.threads_for_model(), ignored("SIGHUP"):
        service, app = build(
            paths, limits=Limits(queue=queue), engine=engine, device=device, precision=precision, batch=batch,
            watch=watch, hosts=[*LOCAL, host, *names], addresses=not local, token=token,
        )  # fmt: skip
        said = service.models.by_name, listening, machine.model_threads(), bool(token)
        started = (lambda: None) if quiet else functools.partial(say_started, *said)
        build_server(app, service, started).run(sockets=[listening])


def check_numbers(queue: int, batch: int, watch: float) -> None:
    """Raises ConfigError for numbers that are too small."""
    if queue < 1 or batch < 0 or not watch >= 0:  # NaN too
        raise ConfigError(f"queue = {queue}, batch = {batch}, watch = {watch}", allowed="from 1, from 0, from 0")


def named(models: Models) -> dict[str, str]:
    """Names and paths. Raises ConfigError where two models have one name, or none is given."""
    check_extra()
    from vitrail.serving.served import name_of

    if isinstance(models, Mapping):
        return dict(zip(models, as_paths(models.values()), strict=True))
    pairs: list[tuple[str, str]] = []
    for one in as_paths([models] if isinstance(models, str) or not isinstance(models, Iterable) else models):
        name, equals, path = one.partition("=")
        pairs.append((name, path) if equals and not Path(one).exists() else (name_of(one), one))
    if not pairs:
        raise ConfigError("no model was named", next_step="give a run folder, a bundle or a weights file")
    if len(dict(pairs)) < len(pairs):
        names = ", ".join(name for name, _ in pairs)
        raise ConfigError(f"two of the models have one name: {names}", next_step="name them: NAME=PATH")
    return dict(pairs)


def as_paths(models: Iterable[object]) -> list[str]:
    """The paths as words. Raises ConfigError for a model in memory."""
    for one in models:
        if not isinstance(one, str | os.PathLike):
            raise ConfigError(
                f"a model that is a {type(one).__name__}",
                allowed="paths",
                next_step="save it first, vitrail.save(model, FOLDER), and serve the folder",
            )
    return [str(one) for one in models]


def refuse_running_loop() -> None:
    """Raises ConfigError where an event loop runs in this thread, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "a server inside of a running event loop, such as a notebook's",
        next_step="start it in a thread of its own: threading.Thread(target=vitrail.serve, args=(model,)).start(), "
        "or type `vitrail serve`",
    )


def read_token(path: str | Path | None) -> str:
    """The first line of a file; empty without one. Raises ConfigError for a token that can be guessed."""
    if path is None:
        return ""
    try:
        token = Path(path).read_text("ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "its text is not ASCII"
        raise ConfigError(f"the token file {path} cannot be read ({reason})") from None
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the first line of {path} is no token",
            allowed="16 characters or more, without spaces",
            next_step=f"this one was drawn for you: {secrets.token_urlsafe(24)}",
        )
    return token


def refuse_open_door(host: str, local: bool, token: str) -> None:
    """Raises ConfigError for an address that others reach, without a token."""
    if not local and not token:
        raise ConfigError(
            f"host = {host} without a token: everybody who reaches this machine could ask",
            next_step="write a token into a file and give `token_file`, or leave `host` at 127.0.0.1",
        )


def is_local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_extra() -> None:
    """Raises ConfigError where the packages of a server are missing."""
    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if not importlib.util.find_spec(name)]
    if missing:
        raise ConfigError(f"a server needs {' and '.join(missing)}", next_step="pip install 'vitrail[serve]'")


def say_started(names: Collection[str], listening: socket.socket, threads: int, token: bool) -> None:
    """A line for the person who started it."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    needs = "; requests need the token" if token else ""
    print(
        f"http://{shown}:{port}/  {', '.join(names)}; {threads} threads{needs}; Ctrl-C stops",
        file=sys.stderr,
        flush=True,
    )
