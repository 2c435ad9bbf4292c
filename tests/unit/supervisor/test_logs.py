"""Log files stay bounded while a child keeps them open."""

import os
from pathlib import Path

from invochain.supervisor.logs import KEPT, shorten


class TestShorten:
    def test_a_file_within_its_bound_is_left_alone(self, tmp_path: Path):
        """Nothing is copied for nothing."""
        log = tmp_path / "invoice.log"
        log.write_bytes(b"x" * 10)

        assert not shorten(log, bytes_max=10)
        assert [log] == list(tmp_path.iterdir())

    def test_what_the_child_writes_afterwards_starts_a_new_file(self, tmp_path: Path):
        """The child's descriptor, opened for appending, goes on at the new end: no hole, no lost line."""
        log = tmp_path / "invoice.log"
        child = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(child, b"old line\n")

        assert shorten(log, bytes_max=5)
        os.write(child, b"new line\n")
        os.close(child)

        assert b"new line\n" == log.read_bytes()
        assert b"old line\n" == log.with_name("invoice.log.1").read_bytes()

    def test_only_so_many_old_files_are_kept(self, tmp_path: Path):
        """The newest are kept, in order; the folder's size is bounded."""
        log = tmp_path / "invoice.log"
        for number in range(KEPT + 3):
            log.write_bytes(b"%d" % number * 10)
            shorten(log, bytes_max=5)

        assert KEPT + 1 == len(list(tmp_path.iterdir()))
        assert b"4" * 10 == log.with_name("invoice.log.1").read_bytes()
        assert b"3" * 10 == log.with_name("invoice.log.2").read_bytes()
