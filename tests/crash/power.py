"""A disk that can lose its power: a real file system on a loop device, shut down without writing what was not synced. As root only.

The kernel's own means for that is used (`FS_IOC_SHUTDOWN`, known from xfs and ext4): from then on the file system writes nothing more,
as if the machine had stopped. Mounting it again replays its journal, as after a power cut. The image of the beginning is copied back each
time, so inodes stay what they were.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.crash.host import Disk

_SHUTDOWN: Final = 0x8004587D
_BLKFLSBUF: Final = 0x1261
_UNMOUNT_ATTEMPTS: Final = 100
_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_MIB: Final = 1 << 20

_IMAGE_MIB: Final = 48
MAKERS: Final = {
    "ext4": (
        ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4"),
        "commit=300,noauto_da_alloc",
    ),
    # xfs wants 300 MiB, nearly all of it for its journal, unless one insists.
    "xfs": (("mkfs.xfs", "--unsupported", "-q", "-f", "-K", "-l", "size=8m"), ""),
}
"""By file system: what makes it, and how it is mounted: writing by itself as late as it can."""

_libc = ctypes.CDLL(None, use_errno=True)


class PowerDisk(Disk):
    """A file system of its own on a loop device. The process has called `hide_mounts` before.

    Args:
        directory: An empty one, for this disk alone.
        kind: `ext4` or `xfs`.

    Raises:
        OSError, subprocess.CalledProcessError: This cannot be done here.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        self._kind = kind
        command, options = MAKERS[kind]
        self._options = options
        self._image = directory / "image"
        self._template_image = directory / "image-template"
        self._mount_point = directory / "mount"
        self._mount_point.mkdir()
        self.home = self._mount_point / "host"
        self._is_mounted = False
        with self._image.open("wb") as file:
            file.truncate(_IMAGE_MIB * _MIB)
        _call(*command, str(self._image))
        self._loop = _call("losetup", "--find", "--show", str(self._image)).strip()
        # Held open, the device is there; given up now, it goes away by itself, however this process ends.
        self._loop_fd = os.open(self._loop, os.O_RDONLY | os.O_CLOEXEC)
        _call("losetup", "--detach", self._loop)
        try:
            self._mount()
            self.home.mkdir()
        except BaseException:
            self.close()
            raise

    def keep(self) -> None:
        """Make the present content the beginning."""
        self._unmount()
        _call("cp", "--sparse=always", str(self._image), str(self._template_image))
        self._mount()

    def restore(self) -> None:
        """Go back to the beginning, by the very blocks."""
        self._unmount()
        self._forget()
        _copy_data(self._template_image, self._image)
        self._forget()
        self._mount()

    def cut(self, how: int) -> None:
        """Lose the power: what the file system has not written is lost."""
        descriptor = os.open(self._mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """Be mounted again, with its journal replayed."""
        self._unmount()
        self._mount()

    def close(self) -> None:
        """Release mount and loop device."""
        with suppress(OSError):
            self._unmount()
        if self._loop_fd >= 0:
            os.close(self._loop_fd)
            self._loop_fd = -1

    def _forget(self) -> None:
        """Drop the kernel's cache of the loop device."""
        fcntl.ioctl(self._loop_fd, _BLKFLSBUF, 0)

    def _mount(self) -> None:
        arguments = (self._loop, str(self._mount_point), self._kind)
        if _libc.mount(*(each.encode() for each in arguments), 0, self._options.encode()):
            raise OSError(ctypes.get_errno(), f"{self._kind} on {self._loop} cannot be mounted")
        self._is_mounted = True

    def _unmount(self) -> None:
        # Looking whether it is a mount point would fail: a file system without power answers nothing.
        for _ in range(_UNMOUNT_ATTEMPTS if self._is_mounted else 0):
            if _libc.umount2(str(self._mount_point).encode(), 0) == 0:
                self._is_mounted = False
                break
            # The descriptors of a process that was killed are closed a little later.
            time.sleep(0.01)
        if self._is_mounted:
            raise OSError(ctypes.get_errno(), f"{self._mount_point} cannot be unmounted")


def hide_mounts() -> None:
    """Give this process its own table of mounts: nobody copies them and keeps them alive, and they end with it. Raises OSError."""
    if _libc.unshare(_CLONE_NEWNS) or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "this process may not have mounts of its own")


def missing_power(kind: str, directory: Path) -> str:
    """Return why the power of such a disk cannot be cut here, or ""."""
    if os.geteuid() != 0:
        return "only root may mount"
    if not shutil.which(MAKERS[kind][0][0]) or not shutil.which("losetup"):
        return f"{MAKERS[kind][0][0]} or losetup is not installed"
    place = directory / f"try-{kind}"
    place.mkdir()
    try:
        disk = PowerDisk(place, kind)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{kind} on a loop device: {getattr(error, 'stderr', '') or error}".strip()[:300]
    try:
        disk.cut(2)
        disk.come_back()
    except OSError as error:
        return f"{kind} cannot be shut down here ({error})"
    finally:
        disk.close()
        shutil.rmtree(place, ignore_errors=True)
    return ""


def _copy_data(source: Path, destination: Path) -> None:
    """Make `destination` hold what `source` holds, holes as holes, without giving it another inode: a loop device has it open."""
    with source.open("rb") as reading, destination.open("r+b") as writing:
        size = os.fstat(reading.fileno()).st_size
        writing.truncate(0)
        writing.truncate(size)
        offset = 0
        while offset < size:
            try:
                begin = os.lseek(reading.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return
            offset = os.lseek(reading.fileno(), begin, os.SEEK_HOLE)
            at = begin
            while at < offset:
                at += os.copy_file_range(reading.fileno(), writing.fileno(), offset - at, at, at)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return done.stdout
