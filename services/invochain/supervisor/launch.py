"""Becomes the program it is asked to run, after making sure that it cannot outlive its supervisor.

Run as `python -I -S launch.py SUPERVISOR_PID DEATH_SIGNAL UID:GID|- PROGRAM ARGUMENT...`. A file of its own, not a
`preexec_fn`: between fork and exec of a process with threads nothing may be called safely, and the order matters -
the kernel forgets the death signal whenever the user changes, so it is asked for last.
Imports the standard library only, so that it costs about 15 ms.
"""

import ctypes
import os
import signal
import sys

# Loaded here, not where it is used: afterwards we may be somebody who cannot read Python's own files.
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def die_with_the_supervisor(supervisor_pid: int, death_signal: int) -> None:
    """Ask Linux for `death_signal` when the supervisor ends, even by SIGKILL. Elsewhere there is no such thing."""
    if not sys.platform.startswith("linux"):
        return
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:
        sys.exit(f"launch: the supervisor {supervisor_pid} ended before {sys.argv[4]} began")


def main() -> None:
    supervisor_pid, death_signal, account = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    program = sys.argv[4:]
    if account != "-":
        uid, gid = (int(part) for part in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_the_supervisor(supervisor_pid, death_signal)
    # Python ignores SIGPIPE for itself; what we become has to decide that anew.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"launch: cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
