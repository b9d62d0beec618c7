"""Every guard is taken away, one at a time: the test that names it must then fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving import test_faults as faults
from tests.serving import test_guards as named
from tests.support.serving import Running, running
from vitrail.serving import guard, served
from vitrail.serving.guard import Guard


def nothing(*_: Any, **__: Any) -> None:
    """In the place of a guard."""


def rebound(server: Running) -> None:
    named.test_row_2_the_host_is_one_of_the_servers_names(server, "evil.example")


def posted(server: Running) -> None:
    named.test_row_3_pages_of_other_sites_may_not_post(server, {"Origin": "null"}, 403)


REMOVED: dict[str, tuple[Any, str, Any, Callable[[Running], None]]] = {
    "2, Host": (Guard, "check_host", lambda *_: "", rebound),
    "2, two Hosts": (Guard, "check_host", lambda *_: "", named.test_row_2_two_hosts_and_other_forms),
    "3, Origin": (guard, "check_origin", nothing, posted),
    "14, policy": (guard, "HEADERS", {}, named.test_row_14_the_page_has_headers_against_scripts_of_others),
    "15, labels": (guard, "route_of", lambda scope: scope["path"], named.test_row_15_metrics_hold_nothing_of_a_request),
}  # fmt: skip


@pytest.mark.parametrize("name", REMOVED)
def test_without_its_guard_a_test_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner, attribute, instead, test = REMOVED[name]
    with running({"small": bundle}) as server:
        monkeypatch.setattr(owner, attribute, instead)
        with pytest.raises((AssertionError, ValueError, KeyError)):
            test(server)


def test_without_the_token_s_guard_its_test_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "check_token", nothing)
    with running({"small": bundle}, token=named.TOKEN) as server, pytest.raises(AssertionError):
        named.test_row_4_a_token_is_needed_in_a_header(server)


def test_without_its_guard_row_16_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden answers. Numbers that are not finite are refused twice: by the reader of weights too."""
    monkeypatch.setattr(served, "check_answers", nothing)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        faults.test_bad_weights_do_not_open(tmp_path, "other answers")
