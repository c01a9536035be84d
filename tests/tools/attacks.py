"""Attacks by a command on the machine that runs it. Each says whether it came through."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.doubles.tool_hosts import NOBODY, SECRET, ToolHostProcess, end_marked, lines_of, marked

KEY: Final = "sk-of-the-node"
ENVIRONMENT: Final = {"SWARM_API_KEY": KEY, "AWS_SECRET_ACCESS_KEY": KEY}
MIB: Final = 1 << 20
LIMITS: Final[Mapping[str, Any]] = {
    "memory_bytes": 256 * MIB,
    "processes": 64,
    "file_bytes": 8 * MIB,
    "cpu_s": 60,
}
PROTECTED_FILES: Final = (".git/hooks/pre-commit", ".git/config", ".envrc", "node_modules/.bin/tsc", "sub/.git/config")

SHARES_MEMORY: Final = "import mmap, time; m = mmap.mmap(-1, 512 << 20); [m.write(bytes(1 << 20)) for _ in range(512)]"

Attack = Callable[[ToolHostProcess], bool]


def prepare(root: Path) -> None:
    """What a project has that runs by itself, and links that lead out of it."""
    for name in PROTECTED_FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was\n")
    (root / "link").symlink_to("../secret.txt")
    (root / "absolute").symlink_to(root.parent / "secret.txt")
    (root / "up").symlink_to("..")
    if os.geteuid() == 0:
        for folder, folders, files in os.walk(root):
            for name in ("", *folders, *files):
                os.chown(Path(folder, name), NOBODY, NOBODY, follow_symlinks=False)


def reads_outside(host: ToolHostProcess) -> bool:
    """By `..`, by links in the root, by names of this machine's files."""
    top = host.root.parent
    paths = f"../secret.txt link absolute up/secret.txt {top}/secret.txt /proc/1/root{top}/secret.txt"
    return SECRET in host.bash(f"cat {paths}").output


def reads_the_environment(host: ToolHostProcess) -> bool:
    return KEY in host.bash("env; cat /proc/*/environ | tr '\\0' '\\n'").output


def reads_this_machines_files(host: ToolHostProcess) -> bool:
    paths = "/etc/shadow /etc/hostname /root /home/* /var/lib /run /sys"
    return "seen" in host.bash(f"for f in {paths}; do [ -e $f ] && echo seen $f; done").output


def reaches_loopback(host: ToolHostProcess) -> bool:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        return "reached" in host.bash(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached").output


def uses_descriptors(host: ToolHostProcess) -> bool:
    """Folders outside that the host, or the sandbox's set-up, has open."""
    script = "for f in /proc/self/fd/* /proc/1/fd/* /proc/$$/fd/*; do cat $f/secret.txt $f/../secret.txt; done"
    return SECRET in host.bash(script + " 2>/dev/null").output


def sees_other_processes(host: ToolHostProcess) -> bool:
    return any(line.isdigit() and int(line) == host.process.pid for line in lines_of(host.bash("ls /proc")))


def outlives_its_call(host: ToolHostProcess) -> bool:
    mark = secrets.token_hex(8)
    host.bash(f"setsid bash -c 'exec -a {mark} sleep 600' >/dev/null 2>&1 & sleep 0.2")
    left = marked(mark)
    end_marked(mark)
    return bool(left)


def makes_many_processes(host: ToolHostProcess) -> bool:
    """More than it may have: `sh` gives up where no process can be made any more."""
    script = "sh -c 'i=0; while [ $i -lt 200 ]; do sleep 60 >/dev/null 2>&1 & i=$((i+1)); echo $i; done' 2>/dev/null"
    return "200" in lines_of(host.bash(script))


def bombs(host: ToolHostProcess) -> bool:
    """A fork bomb, after which the machine and the host go on as before."""
    host.bash(":(){ :|:& };: ; sleep 60", 2)
    return host.bash("echo alive").output != "alive\n"


def takes_memory(host: ToolHostProcess) -> bool:
    """512 MiB in one process: `tail` keeps a line that does not end."""
    return "536870912" in host.bash("head -c 536870912 /dev/zero | tail -n 1 | wc -c").output


def takes_memory_together(host: ToolHostProcess) -> bool:
    """160 MiB in each of eight, all at once."""
    one = "(head -c 167772160 /dev/zero; touch /tmp/up.{}; sleep 100) | tail -n 1 >/dev/null &"
    wait = "while [ $(ls /tmp/up.* 2>/dev/null | wc -l) -lt 8 ]; do sleep 0.1; done; sleep 1; echo taken"
    return "taken" in host.bash(" ".join(one.format(number) for number in range(8)) + wait, 100).output


def takes_shared_memory(host: ToolHostProcess) -> bool:
    """512 MiB that two processes could share: no limit of a process counts it."""
    return "taken" in host.bash(f"python3 -c \"{SHARES_MEMORY}; time.sleep(1); print('taken')\"", 100).output


def writes_a_large_file(host: ToolHostProcess) -> bool:
    return "written" in host.bash("head -c 33554432 /dev/zero > large 2>/dev/null && echo written; rm -f large").output


def fills_tmp(host: ToolHostProcess) -> bool:
    sizes = [int(word) for word in lines_of(host.bash("df -k --output=size /tmp /dev/shm | tail -n 2"))]
    return len(sizes) != 2 or max(sizes) > 1 << 20


def writes_beside_the_root(host: ToolHostProcess) -> bool:
    script = "for d in / /dev /usr /etc /proc /bin; do (echo x > $d/written) 2>/dev/null && echo written; done"
    return "written" in host.bash(script).output


def changes_what_runs_by_itself(host: ToolHostProcess) -> bool:
    """Written, moved away, linked over: what git, direnv and npm run without being asked."""
    moves = "mv .git g; mkdir .git; mv sub/.git sub/g; ln -sf x .envrc; rm -rf node_modules/.bin; mv .envrc e"
    host.bash("; ".join(f"echo evil > {name}" for name in PROTECTED_FILES) + f"; {moves}")
    there = [host.root / name for name in PROTECTED_FILES]
    return any(path.is_symlink() or not path.is_file() or path.read_text() != "as it was\n" for path in there)


def makes_namespaces(host: ToolHostProcess) -> bool:
    """Inside namespaces of its own it would have every right, and the kernel's mistakes to try."""
    return "made" in host.bash("unshare --user --map-root-user true && echo made").output


def leaves_shared_memory(host: ToolHostProcess) -> bool:
    before = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    host.bash("ipcmk -M 1024")
    after = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    left = set(after.splitlines()) - set(before.splitlines())
    for line in left:
        subprocess.run(["ipcrm", "-m", line.split()[1]], check=True)
    return bool(left)


def reads_keys_of_the_session(host: ToolHostProcess) -> bool:
    """What the host's process has in its keyring, as Kerberos and file systems keep keys there."""
    script = "$t='user'; $n='swarm-test'; $i=syscall(%d,$t,$n,0,0); $b=' 'x64; syscall(%d,11,$i,$b,64); print $b"
    asking = script % {"x86_64": (249, 250), "aarch64": (218, 219)}[os.uname().machine]
    return KEY in host.bash(f'perl -e "{asking}"'.replace("$", "\\$")).output


ON_ONE_HOST: Final[Mapping[str, Attack]] = {
    attack.__name__: attack
    for attack in (
        reads_outside,
        reads_the_environment,
        reads_this_machines_files,
        reaches_loopback,
        uses_descriptors,
        sees_other_processes,
        outlives_its_call,
        makes_many_processes,
        bombs,
        takes_memory,
        takes_memory_together,
        takes_shared_memory,
        writes_a_large_file,
        fills_tmp,
        writes_beside_the_root,
        changes_what_runs_by_itself,
        makes_namespaces,
        leaves_shared_memory,
        reads_keys_of_the_session,
    )
}
