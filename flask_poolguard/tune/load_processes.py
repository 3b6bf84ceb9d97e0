"""The processes that make the load, seen from the command."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
from collections.abc import Callable, Iterator, Mapping, Sequence

from .failures import TuneError

# The import of a large app takes its time, with several processes on few cores more.
_START_SECONDS: t.Final = 120.0
# How long an orderly end may take before it is made short.
_END_SECONDS: t.Final = 5.0
# Period of asking whether a process has ended.
_PAUSE_SECONDS: t.Final = 0.01
_TAIL_LINES: t.Final = 15
# Bytes of what a process wrote that are kept from one order to the next: an app may log
# every request.
_MOST_LOG: t.Final = 1_000_000

Answer = Mapping[str, t.Any]


class LoadProcesses:
    """Starts processes of :mod:`.load_worker`, and ends them on every way out.

    To be used in a ``with`` block.

    :param order: what each is told first.
    :param clean: takes what secrets there are out of what a process wrote.
    """

    def __init__(
        self,
        processes: int,
        order: Mapping[str, t.Any],
        clean: Callable[[str], str],
    ) -> None:
        self._clean = clean
        self._order = order
        self._number = processes
        self._members: list[_Member] = []

    def __enter__(self) -> t.Self:
        try:
            for _ in range(self._number):
                self._members.append(_Member())
            self._tell(self._order)
            self._answers(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, within: float, do: str, **order: t.Any) -> list[Answer]:
        """Give all the same order; return what each answered.

        :param within: seconds to wait for all of them.
        :raises TuneError: one failed, ended, or did not answer in time.
        """
        self._tell({"do": do, **order})
        return self._answers(within)

    def close(self) -> None:
        """End all processes; those that hang by force."""
        with contextlib.ExitStack() as stack:
            for member in self._members:
                stack.callback(member.log.close)
                stack.callback(member.reap)
            for member in self._members:
                member.dismiss()
            deadline = time.monotonic() + _END_SECONDS
            for member in self._members:
                member.wait(max(deadline - time.monotonic(), 0))
        self._members.clear()

    def _tell(self, order: Mapping[str, t.Any]) -> None:
        for member in self._members:
            try:
                member.tell(order)
            except BrokenPipeError:
                raise self._ended(member) from None

    def _answers(self, seconds: float) -> list[Answer]:
        deadline = time.monotonic() + seconds
        answers: dict[_Member, Answer] = {}
        with selectors.DefaultSelector() as selector:
            for member in self._members:
                selector.register(member.output, selectors.EVENT_READ, member)
            while len(answers) < len(self._members):
                events = selector.select(max(deadline - time.monotonic(), 0))
                if not events:
                    raise TuneError(
                        f"No answer from a process of the load within {seconds:.0f} s."
                        + self._tail(self._members)
                    )
                for key, _ in events:
                    for line in key.data.lines():
                        answers[key.data] = self._checked(key.data, line)
        return [answers[member] for member in self._members]

    def _checked(self, member: _Member, line: bytes | None) -> Answer:
        if line is None:
            raise self._ended(member)
        answer: Answer = json.loads(line)
        if "failed" in answer:
            raise TuneError(answer["failed"])
        if "broken" in answer:
            raise TuneError(
                "A process of the load could not go on:"
                f" {self._clean(answer['broken'])}" + self._tail([member])
            )
        return answer

    def _ended(self, member: _Member) -> TuneError:
        status = member.wait(_END_SECONDS)
        return TuneError(
            f"A process of the load ended by itself, with status {status}."
            + self._tail([member])
        )

    def _tail(self, members: Sequence[_Member]) -> str:
        """Return the last lines that processes wrote."""
        lines = [line for member in members for line in member.tail()]
        if not lines:
            return ""
        text = "\n  ".join(self._clean("\n".join(lines)).splitlines())
        return f" The last that it wrote:\n  {text}"


class _Member:
    """One process, in a session of its own: a Ctrl-C goes to the command only."""

    def __init__(self) -> None:
        import fcntl  # only Unix has it, and all that needs processes like these

        # Has no name, so nothing is left of it.
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the processes)
        # Written at its end, wherever that is after it was cut.
        fcntl.fcntl(self.log, fcntl.F_SETFL, os.O_APPEND)
        self._read = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flask_poolguard.tune.load_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )
        self._input = t.cast("t.IO[bytes]", self.process.stdin)
        self.output = t.cast("t.IO[bytes]", self.process.stdout)

    def tell(self, order: Mapping[str, t.Any]) -> None:
        """Send an order."""
        if os.fstat(self.log.fileno()).st_size > _MOST_LOG:
            os.ftruncate(self.log.fileno(), 0)
        self._input.write(json.dumps(order).encode() + b"\n")
        self._input.flush()

    def lines(self) -> Iterator[bytes | None]:
        """Give the whole lines that are there, and None for the end."""
        data = os.read(self.output.fileno(), 65536)
        self._read += data
        *lines, self._read = self._read.split(b"\n")
        yield from lines
        if not data:
            yield None

    def tail(self) -> list[str]:
        """Return the last lines that the process wrote."""
        size = os.fstat(self.log.fileno()).st_size
        data = os.pread(self.log.fileno(), 65536, max(size - 65536, 0))
        return data.decode(errors="replace").splitlines()[-_TAIL_LINES:]

    def dismiss(self) -> None:
        """Let it end: its input ends."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def wait(self, seconds: float) -> int | None:
        """Wait so long for its end; return its status, None if it goes on.

        It keeps its number, which is that of its group too, until :meth:`reap`: no
        other process can get it before.
        """
        deadline = time.monotonic() + seconds
        while (status := self._status()) is None and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        return status

    def _status(self) -> int | None:
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return self.process.poll()
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            found = os.waitid(os.P_PID, self.process.pid, options)
        except ChildProcessError:  # where SIGCHLD is ignored, nothing waits to be asked
            return self.process.poll()
        if found is None:
            return None
        return found.si_status * (1 if found.si_code == os.CLD_EXITED else -1)

    def reap(self) -> None:
        """Kill it if it still runs, and the programs that it started."""
        # Once it has been waited for, another group may have its number.
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()
