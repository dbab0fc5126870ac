"""The one part that is compiled, and builds that depend on nothing but their files; the rest is in pyproject.toml."""

import gzip
import os
import tarfile
import time

from setuptools import Extension, setup
from setuptools.command.sdist import sdist


class ReproducibleSdist(sdist):
    """A .tar.gz of one time, SOURCE_DATE_EPOCH, and of no user; what is in it is sorted by name."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = seconds, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=seconds) as compressed,
            tarfile.open(fileobj=compressed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=plain)
        return path


setup(
    cmdclass={"sdist": ReproducibleSdist},
    ext_modules=[
        Extension(
            "wvq.prior.decoder._attention",
            ["prior/decoder/attention.c"],
            # -g0: what is compiled names no folder that it was compiled in
            extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-g0"],
            extra_link_args=["-fopenmp"],
            optional=True,  # without a C compiler torch does the same, more slowly
        )
    ],
)
