"""The Cython extensions of zpush/_fast; everything else about the package is in pyproject.toml.

Rules. Cython and the C compiler run only while extensions are built: making an sdist or reading metadata compiles
nothing, and what is newer than its sources (.pyx, .pxd, .h) is left alone. All processors take part, or as many as
`-j` says: Cython with a process a module, because its compiler is made for one thread, the C compiler with a thread a
module.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("zpush/_fast")
# For make, which compiles in place itself: pip would compile everything anew at each installation in place.
NATIVE = [] if os.environ.get("ZPUSH_NO_EXTENSIONS") else sorted(FOLDER.glob("*.pyx"))

# -O3 without -march=native: a wheel runs on every machine of its architecture.
ARGS = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-cast-function-type"]
LINK_ARGS: list[str] = []
# For .ci/sanitize: slower and larger by a multiple, and the first finding ends the process.
if os.environ.get("ZPUSH_SANITIZE"):
    LINK_ARGS = ["-fsanitize=address,undefined"]
    ARGS += ["-O1", "-g1", "-fno-omit-frame-pointer", *LINK_ARGS, "-fno-sanitize-recover=undefined"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": False,
}


class BuildOnAllProcessors(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        written = cythonize(
            self.extensions,
            nthreads=self.parallel,
            force=self.force or None,
            quiet=not self.verbose,
            compiler_directives=DIRECTIVES,
        )
        for extension, as_c in zip(self.extensions, written, strict=True):
            extension.sources = as_c.sources
        super().build_extensions()


# Cython's processes may import this file again.
if __name__ == "__main__":
    setup(
        cmdclass={"build_ext": BuildOnAllProcessors},
        ext_modules=[
            Extension(
                f"zpush._fast.{path.stem}",
                [str(path)],
                depends=[str(header) for header in sorted(FOLDER.glob("*.h"))],
                extra_compile_args=ARGS,
                extra_link_args=LINK_ARGS,
            )
            for path in NATIVE
        ],
    )
