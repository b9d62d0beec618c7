"""The wheel: it builds, holds what the package needs and nothing else, and works from another directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[1]


def run(*words: str, **options) -> str:
    answer = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/vitrail").rglob("*") if path.is_file()}
    expected = {name for name in source if "__pycache__" not in name}
    assert expected <= names
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert not extra
    assert any(name.endswith("licenses/LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)


def test_the_licence_is_an_spdx_expression(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()


def test_installed_it_trains_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    place, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place), str(wheel))
    settings = {"cwd": work, "env": {**os.environ, "PYTHONPATH": str(place)}}
    assert Path(run("-c", "import vitrail; print(vitrail.__file__)", **settings).strip()).is_relative_to(place)
    tiny = ("--model.depth=1", "--model.width=16", "--model.heads=2", "--model.mlp-width=32", "--epochs=1")
    said = run("-m", "vitrail", "train", "digits", "--quiet", *tiny, **settings)
    assert "held-out accuracy" in said
    assert (work / "runs/digits-1/best/model.safetensors").is_file()
