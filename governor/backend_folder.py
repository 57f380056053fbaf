# SPDX-License-Identifier: Apache-2.0
"""What Triton is started with: a folder of backends, and a folder of links to the models to serve.

The models are linked because a repository also holds folders that are no models, which Triton would try to load. Both
lie in a cache folder, because /run is often mounted noexec and a backend is a library.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import GovernorError

PACKAGES = ("triton_backend", "telemetry", "model_repository/__init__.py", "model_repository/architectures.py")
"""What the governed backend imports; copied as packages, never flat."""

STARTER = '''# SPDX-License-Identifier: Apache-2.0
"""Triton imports this file; the backend itself is the package beside it, whatever else of that name is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from triton_backend.model import TritonPythonModel as TritonPythonModel  # noqa: E402
'''


class ServerNotInstalled(GovernorError):
    """No Triton server where one was expected; the message says what is missing."""


class ModelNotFound(GovernorError):
    """The repository has no such model; `model` and `repository` say which and where."""

    def __init__(self, model: str, repository: Path) -> None:
        self.model = model
        self.repository = repository
        super().__init__(f"{repository} has no model '{model}' (a folder with config.pbtxt)")


@dataclass(frozen=True, slots=True)
class Installation:
    """One Triton server; `stub` is the Python backend's for this interpreter, where it lies apart from its backend."""

    binary: Path
    backends: Path
    library_path: tuple[Path, ...] = ()
    stub: Path | None = None


def cache_folder(run_dir: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where one run directory's server is assembled: below systemd's `$CACHE_DIRECTORY` or the user's cache folder."""
    name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
    if given := environ.get("CACHE_DIRECTORY"):
        return Path(given.split(":")[0]) / name
    if os.geteuid() == 0:
        return Path("/var/cache/teg") / name
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teg" / name


def find_installation(binary: Path | None = None) -> Installation:
    """The server in the nvidia-pytriton wheel, or the one at `binary`; raises `ServerNotInstalled`."""
    libpython = Path(sysconfig.get_config_var("LIBDIR"))
    if binary is not None:
        if not binary.is_file():
            raise ServerNotInstalled(f"{binary} is not a file")
        root = binary.resolve().parent.parent
        return Installation(binary, root / "backends", (libpython, root / "lib"))
    site = Path(sysconfig.get_path("purelib"))
    wheel = site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    for needed in (wheel / "bin" / "tritonserver", stub):
        if not needed.is_file():
            raise ServerNotInstalled(f"{needed} is missing: pip install 'triton-energy-governor[server]'")
    # The base interpreter's libpython first: with another one of the same minor version `import ssl` fails in the stub.
    return Installation(
        wheel / "bin" / "tritonserver", wheel / "backends", (libpython, site / "nvidia_pytriton.libs"), stub
    )


def assemble_backends(installation: Installation, folder: Path, extra: Sequence[Path] = ()) -> None:
    """Fill the empty `folder` with the installation's backends, the governed backend, and further Python-based ones."""
    if not (installation.backends / "python").is_dir():
        raise ServerNotInstalled(f"{installation.backends} has no python backend")
    for backend in sorted(path for path in installation.backends.iterdir() if path.is_dir()):
        if backend.name == "python" and installation.stub is not None:
            # Triton refuses a library whose real path lies outside its backend's folder, so this one is copied
            shutil.copytree(backend, folder / "python", ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "python" / installation.stub.name).symlink_to(installation.stub)
        else:
            (folder / backend.name).symlink_to(backend)
    install_governed(folder / "governed")
    for backend in extra:
        (folder / backend.name).symlink_to(backend.resolve())


def install_governed(folder: Path) -> None:
    """Put the governed backend into `folder`, which must not exist yet."""
    root = Path(__file__).resolve().parents[1]
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(STARTER)
    for package in PACKAGES:
        source, target = root / package, folder / package
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def models_in(repository: Path) -> list[str]:
    """The names of the models in a repository, sorted."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def assemble_repository(repository: Path, models: Sequence[str], folder: Path) -> None:
    """Fill the empty `folder` with links to the models named; raises `ModelNotFound`."""
    for model in models:
        source = repository.resolve() / model
        if not (source / "config.pbtxt").is_file():
            raise ModelNotFound(model, repository)
        (folder / model).symlink_to(source)
