"""Takes the shared libraries and the licences out of wheels. Usage: unpack.py WHEELS_FOLDER TARGET_FOLDER"""

import pathlib
import shutil
import sys
import zipfile


def wanted(name: str) -> str | None:
    """The file's name in the target folder, if it belongs there."""
    path = pathlib.PurePosixPath(name)
    package = path.parts[0]
    if path.name.startswith("onnxruntime_pybind11"):
        return None
    if ".so" in path.suffixes and "/stubs/" not in name:
        return path.name
    if "LICENSE" in path.name.upper() or path.name == "ThirdPartyNotices.txt":
        return f"licences/{package}-{path.name}"
    return None


def main() -> None:
    wheels, target = map(pathlib.Path, sys.argv[1:3])
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or not (name := wanted(entry.filename)):
                    continue
                to = target / name
                to.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, to.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    # The name without a version is the one that is looked for first.
    library = next(target.glob("libonnxruntime.so.*"))
    (target / "libonnxruntime.so").symlink_to(library.name)


main()
