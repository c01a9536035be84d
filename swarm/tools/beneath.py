"""Opening a path that cannot leave its root, whatever is swapped for what meanwhile: no path is checked and then used.

On Linux the kernel resolves it (`openat2` with RESOLVE_BENEATH, Linux 5.6). Elsewhere each step is opened from the
descriptor of the one before, links are read and followed by hand, and `..` goes back to a descriptor that is held.
Both follow links that stay below the root, and neither those that leave it, absolute ones included.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Final

# From <linux/openat2.h>, the same on every architecture.
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_BENEATH: Final = 0x08
_SYS_OPENAT2: Final = 437
BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS

MOST_LINKS: Final = 40  # in one path, as in the kernel
_TRIES: Final = 32  # the kernel gives up (EAGAIN) while somebody moves folders about; the walk, over swapped links

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What is no link: EINVAL says so of readlink; ELOOP (EMLINK on BSD) and ENOTDIR, that one stands there after all.
_BECAME_A_LINK: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENOTDIR})

Opener = Callable[[int, str, int], int]
"""Takes the root's descriptor, a relative path and flags of `os.open`; gives a descriptor, or raises OSError: EXDEV
where the path would leave the root. A last component that is a link is followed, too."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def open_by_kernel(root: int, path: str, flags: int, resolve: int = BENEATH) -> int:
    """An `Opener` by `openat2`; OSError with ENOSYS where the kernel, or what filters its calls, has none."""
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    number = 0
    for _ in range(_TRIES):
        found = _libc().syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)


def open_by_steps(root: int, path: str, flags: int, step_flags: int = os.O_NOFOLLOW) -> int:
    """An `Opener` for every POSIX system. `step_flags` go with each step: following links there would undo it all."""
    held = [os.dup(root)]  # the folders down to where the walk is: the first is the root, which it never goes above
    os.set_inheritable(held[0], False)
    todo = _components(path)
    links = tries = 0
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if len(held) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                os.close(held.pop())
                continue
            try:
                target = os.readlink(name, dir_fd=held[-1]) if step_flags & os.O_NOFOLLOW else None
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                target = None
            if target is not None:
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                todo += _components(target)
                continue
            last = not todo
            try:
                opened = os.open(
                    name,
                    (flags | step_flags | os.O_CLOEXEC) if last else (_FOLDER & ~os.O_NOFOLLOW | step_flags),
                    dir_fd=held[-1],
                )
            except OSError as error:
                tries += 1
                if error.errno not in _BECAME_A_LINK or tries > _TRIES or not _is_link(name, held[-1]):
                    raise
                todo.append(name)
                continue
            if last:
                return opened
            held.append(opened)
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=held[-1])
    finally:
        for descriptor in held:
            os.close(descriptor)


def _components(path: str) -> list[str]:
    """The steps of a path, the last one first. An absolute one begins with a step out of the root."""
    steps = [step for step in path.split("/") if step not in ("", ".")]
    return [*reversed(steps), ".."] if path.startswith("/") else list(reversed(steps))


def _is_link(name: str, folder: int) -> bool:
    try:
        os.readlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


@functools.cache
def best_opener() -> Opener:
    """The kernel's own where it has one, else step by step."""
    folder = os.open("/", _FOLDER)
    try:
        os.close(open_by_kernel(folder, ".", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return open_by_steps
    finally:
        os.close(folder)
    return open_by_kernel
