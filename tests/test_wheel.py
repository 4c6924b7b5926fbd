"""The built wheel runs by itself, from another folder, in an environment that has only our dependencies."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_runs_the_smoke_sweep_from_another_folder(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    other.mkdir()
    for name in ("sweeper", "models", "attacks", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("sweeper-*.whl")

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=60)
    (packages,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    # our dependencies, but not our own editable installation: a .pth in a folder named by a .pth is not read
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["-m", "sweeper", "run", "smoke", "--inline", "--set", "train_images=60", "--set", "validation_images=20", "--set", "test_images=20"]
    done = subprocess.run([tmp_path / "venv" / "bin" / "python", *words], cwd=other, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials completed" in done.stdout
    where = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", "import sweeper, models; print(sweeper.__file__, models.__file__)"],
        cwd=other, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert where.stdout.count(str(packages)) == 2
