"""Files and folders are whole or absent, and nothing is written through a link."""

import os
from pathlib import Path

import pytest

from vitrail.errors import StorageError
from vitrail.storage import remove, whole_folder, write_whole

CONTENTS = [(b"bytes", b"bytes"), ("text é", "text é".encode()), (lambda file: file.write(b"written"), b"written")]


@pytest.mark.parametrize(("content", "stored"), CONTENTS)
def test_content_of_every_kind_in_a_folder_that_was_missing(content, stored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, content)
    write_whole(path, content)
    assert path.read_bytes() == stored and [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(call: str, tmp_path: Path, monkeypatch) -> None:
    write_whole(tmp_path / "file", "old")
    monkeypatch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"file could not be written \(No space left on device\); do this"):
        write_whole(tmp_path / "file", "new", next_step="do this")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_in_the_content_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")

    def half(file) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "file", half)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["file", ".file.part"])
def test_a_link_is_replaced_and_what_it_names_stays(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(outside)
    write_whole(tmp_path / "run" / "file", "new")
    assert outside.read_text() == "mine"
    assert (tmp_path / "run" / "file").read_text() == "new" and not (tmp_path / "run" / "file").is_symlink()


def test_a_link_made_just_before_the_file_is_opened_is_not_followed(tmp_path: Path, monkeypatch) -> None:
    outside, unlink = tmp_path / "outside", Path.unlink
    outside.write_text("mine")

    def too_late(path: Path, **options) -> None:
        unlink(path, **options)
        path.symlink_to(outside)

    monkeypatch.setattr(Path, "unlink", too_late)
    with pytest.raises(StorageError, match="could not be written"):
        write_whole(tmp_path / "file", "new")
    assert outside.read_text() == "mine"


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with whole_folder(tmp_path / "new") as aside:
            (aside / "inner").mkdir()
            (aside / "inner" / "file").write_text(text)
            assert not (tmp_path / "new").exists() or (tmp_path / "new" / "inner" / "file").read_text() == "one"
        assert (tmp_path / "new" / "inner" / "file").read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "new") as aside:
        (aside / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["new", ".new.part"])
def test_a_link_in_place_of_a_folder_is_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "diary").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "outside")
    with whole_folder(tmp_path / "new") as aside:
        (aside / "file").write_text("new")
    assert [entry.name for entry in (tmp_path / "outside").iterdir()] == ["diary"]
    assert (tmp_path / "new" / "file").read_text() == "new" and not (tmp_path / "new").is_symlink()


def test_removing_a_link_keeps_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert (tmp_path / "folder").is_dir() and len(list(tmp_path.iterdir())) == 1


def test_a_path_without_a_name_is_no_file() -> None:
    for path in ("", ".", "/"):
        with pytest.raises(StorageError, match="names no file"):
            write_whole(path, b"")
