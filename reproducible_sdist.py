"""A source distribution that depends on nothing but its files: setuptools' own has the time at which it was made."""

import gzip
import os
import tarfile
import time
from pathlib import Path

from setuptools.command.sdist import sdist


class ReproducibleSdist(sdist):
    """A .tar.gz of one time, SOURCE_DATE_EPOCH, and of no user; what is in it is sorted by name."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, [*files, Path(__file__).name])  # the wheel is built from what is in there

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
