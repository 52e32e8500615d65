"""Check the size, contents and dependencies of wheels; used by wheels.sh, with auditwheel's libraries.

python tests/slow/check_wheel.py WHEEL...
"""

import re
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from packaging.metadata import parse_email

MOST_BYTES = 2_500_000
KINDS = (".py", ".pyi", ".pxd", ".so", ".js", ".css", ".json", ".wasm", "include/lstm_cy.h", "py.typed")
#: libraries that exist on all systems of manylinux and musllinux
SYSTEM = re.compile(r"lib[cm]\.so\.6|libpthread\.so\.0|ld-linux-[\w-]+\.so\.[12]|libc\.musl-\w+\.so\.1")


def main(paths):
    for path in map(Path, paths):
        print(path.name)
        with zipfile.ZipFile(path) as wheel:
            contents = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
        faults = list(faults_of(path.stat().st_size, contents))
        print("  " + "\n  ".join(faults or [summary(path.stat().st_size, contents)]))
        if faults:
            return 1
    return 0


def summary(size, contents):
    modules = [content for name, content in contents.items() if name.endswith(".so")]
    return f"{size} bytes, installed {sum(map(len, contents.values()))}; {len(modules)} compiled modules"


def faults_of(size, contents):
    if size > MOST_BYTES:
        yield f"{size} bytes, more than {MOST_BYTES}"
    package = [name for name in contents if name.startswith("lstm_cy/")]
    info = [name for name in contents if re.match(r"lstm_cy-[\w.]+\.dist-info/", name)]
    yield from (f"{name}: unexpected file" for name in contents.keys() - set(package) - set(info))
    yield from (f"{name}: only {', '.join(KINDS)} are needed" for name in package if not name.endswith(KINDS))
    for kind in KINDS:
        if not any(name.endswith(kind) for name in package):
            yield f"no {kind}"
    if not any(name.endswith("licenses/LICENSE") for name in info):
        yield "no licence"
    (metadata,) = (contents[name] for name in info if name.endswith("/METADATA"))
    required, unknown = parse_email(metadata)
    named = sorted(re.match(r"[\w-]+", line)[0] for line in required["requires_dist"] if "extra ==" not in line)
    if named != ["numpy", "scipy"] or unknown:
        yield f"requires {named}; {unknown}"
    for name in package:
        if name.endswith(".so"):
            for library in needed(contents[name]):
                if not SYSTEM.fullmatch(library):
                    yield f"{name} needs {library}"


def needed(content):
    """Yield the shared libraries that a compiled module needs."""
    for segment in ELFFile(BytesIO(content)).iter_segments():
        if isinstance(segment, DynamicSegment):
            yield from (tag.needed for tag in segment.iter_tags("DT_NEEDED"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
