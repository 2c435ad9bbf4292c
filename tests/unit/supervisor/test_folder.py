"""The data folder: closed to others, held by one supervisor, and honest about where it cannot be."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from invochain.supervisor.account import Account, first_closed_folder
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.folder import DataFolder, default_data_folder
from invochain.supervisor.state import StackState, read_state, running_stack


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data", account=None)
    made.prepare()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestDataFolder:
    def test_passwords_are_made_once_and_readable_by_their_owner_only(self, folder: DataFolder):
        """The same name gives the same password at every start, another name another one, in a file of mode 0600."""
        first = folder.password("invoice")
        again = DataFolder(folder.path, account=None).password("invoice")

        assert first == again
        assert first != folder.password("merchant")
        assert len(first) == 32
        assert 0o600 == mode(folder.passwords / "invoice")
        assert 0o700 == mode(folder.passwords)

    def test_preparing_changes_no_permission_outside_the_folder(self, tmp_path: Path):
        """Only the data folder itself and what is in it get new permissions; its parents stay as they were."""
        parent = tmp_path / "private"
        parent.mkdir(mode=0o700)

        DataFolder(parent / "data", account=None).prepare()

        assert 0o700 == mode(parent)
        assert 0o711 == mode(parent / "data")

    def test_a_folder_that_others_live_in_is_refused_and_left_as_it_is(self, tmp_path: Path):
        """We set the permissions of our folder; given somebody's home or /tmp, that would lock them out."""
        (tmp_path / "letter.txt").touch()
        tmp_path.chmod(0o755)

        with pytest.raises(CannotStart, match="holds files that are not InvoChain's"):
            DataFolder(tmp_path, account=None).prepare()

        assert 0o755 == mode(tmp_path)
        assert ["letter.txt"] == [path.name for path in tmp_path.iterdir()]

    def test_an_empty_folder_and_one_of_ours_are_taken(self, tmp_path: Path):
        """A fresh mount is empty; a second start, or one that was broken off early, finds our lock file."""
        tmp_path.chmod(0o700)
        for _ in range(2):
            DataFolder(tmp_path, account=None).prepare()
        assert 0o711 == mode(tmp_path)

    def test_a_folder_behind_a_closed_door_is_refused_and_the_door_stays_closed(self, tmp_path: Path):
        """An account that may not pass through a parent is told which one; we do not open it."""
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        stranger = Account("stranger", uid=61_234, gid=61_234)

        with pytest.raises(CannotStart, match="closed to 'stranger'"):
            DataFolder(home / "data", stranger).prepare()

        assert [] == list(home.iterdir()), "nothing was made behind the door"
        assert 0o700 == mode(home)

    def test_the_outermost_closed_parent_is_named(self, tmp_path: Path):
        """Of several closed parents the first on the way from the root is the one to mend."""
        stranger = Account("stranger", uid=61_234, gid=61_234)
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a").chmod(0o700)
        (tmp_path / "a" / "b").chmod(0o700)
        closed = first_closed_folder(tmp_path / "a" / "b" / "c", stranger)

        assert closed is not None
        assert closed in (tmp_path / "a", *(tmp_path / "a").parents)  # pytest's own folder may be closed as well

    def test_a_second_holder_is_refused_with_the_first_ones_process_id(self, folder: DataFolder):
        """The lock names its owner; it is free again once the owner lets go."""
        folder.lock()
        with pytest.raises(CannotStart, match=rf"already in use by `invochain up` with process id {os.getpid()}\b"):
            DataFolder(folder.path, account=None).lock()

        folder.unlock()
        DataFolder(folder.path, account=None).lock()

    def test_the_lock_ends_with_its_owner_however_that_ends(self, folder: DataFolder):
        """A supervisor that was killed leaves a lock file, yet no lock."""
        code = (
            "import os, sys; from pathlib import Path; from invochain.supervisor.folder import DataFolder\n"
            "DataFolder(Path(sys.argv[1]), None).lock(); os.kill(os.getpid(), 9)"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(folder.path)], timeout=30, check=False)
        assert -9 == ended.returncode
        assert (folder.path / "lock").read_text().strip()

        folder.lock()

    def test_too_long_a_path_gives_up_unix_sockets_not_the_start(self, tmp_path: Path):
        """The operating system holds about 100 characters of a socket's path; beyond that TCP alone is used."""
        assert DataFolder(Path("/var/lib/invochain"), None).sockets == Path("/var/lib/invochain/run")
        assert DataFolder(tmp_path / ("x" * 100), None).sockets is None

    def test_the_default_folder_is_below_the_home_unless_we_are_root(self, monkeypatch: pytest.MonkeyPatch):
        """Root keeps data in /var/lib, everybody else in their own XDG data folder."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setenv("XDG_DATA_HOME", "/somewhere/share")
        assert default_data_folder() == Path("/somewhere/share/invochain")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert default_data_folder() == Path("/var/lib/invochain")


class TestStackState:
    def test_what_is_written_is_read_and_closed_to_others(self, folder: DataFolder):
        """The state file holds database passwords."""
        state = StackState(
            state="ready",
            pid=1,
            data_folder=folder.path,
            addresses={"gateway": "127.0.0.1:8080"},
            environment={"A": "b"},
        )
        state.write()

        assert state == read_state(folder.path)
        assert "http://127.0.0.1:8080" == state.gateway_url
        assert 0o600 == mode(folder.path / "stack.json")

    def test_a_stack_counts_as_running_only_while_its_supervisor_holds_the_folder(self, folder: DataFolder):
        """A state file that says `ready` outlives a supervisor that was killed; the lock does not."""
        StackState(state="ready", pid=1, data_folder=folder.path).write()
        with pytest.raises(CannotStart, match="no InvoChain stack is ready"):
            running_stack(folder.path)

        folder.lock()
        assert running_stack(folder.path).pid == 1

    def test_a_damaged_state_file_is_as_good_as_none(self, folder: DataFolder):
        """A start never fails for what an older or broken one left behind."""
        (folder.path / "stack.json").write_text("{")
        assert read_state(folder.path) is None
