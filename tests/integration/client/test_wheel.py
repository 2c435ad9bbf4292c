"""What a user gets: pip builds and installs the folder, the package is whole, and a typed program type-checks.

One clean environment for the file; the mypy and the hatchling of the test machine's index.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CLIENT = ROOT / "clients" / "python"
# Where `make setup` puts it.
UV = shutil.which("uv") or str(ROOT / ".cache" / "bin" / "uv")
PROGRAM = """
    from invochain_client import Answer, AsyncClient, Client, OutcomeUnknown, line, rupees
    from invochain_client.errors import InsufficientStock
    from invochain_client.types import Invoice, InvoiceState, Party


    def sell(client: Client, gstin: str) -> str:
        bolts = line("Hex bolt M8", sku="BOLT-M8", hsn="731815", quantity=10, price="1000.00", gst_rate=18)
        invoice = Invoice(supply_type="B2B", buyer=Party(gstin=gstin), lines=[bolts])
        try:
            issued: Answer[Invoice] = client.invoices.create(invoice, idempotency_key="k" * 16, timeout_s=3)
        except InsufficientStock as short:
            return f"{short.sku}: {short.free} free, {short.asked_milli} asked"
        except OutcomeUnknown as unknown:
            return unknown.key
        assert issued.message.totals.total_paise == rupees("11800.00")
        for one in client.invoices.list(filter="state = ISSUED"):
            print(one.number, InvoiceState.Name(one.state))
        return issued.message.number


    async def count(client: AsyncClient) -> int:
        return len([one async for one in client.stock.list()])
"""
WRONG = """
    from invochain_client import Client


    def wrong(client: Client) -> None:
        client.invoices.create("not an invoice")
        client.invoices.accept(7)
        client.stock.adjust("BOLT-M8", "ADD", 1.5)
        client.invoices.list(fliter="")
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that uv builds from a source distribution of the folder: what is uploaded, and from what."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(UV, "build", "--quiet", "--out-dir", folder, CLIENT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory) -> Path:
    """An environment with the wheel and mypy in it, and nothing else."""
    folder = tmp_path_factory.mktemp("user")
    made = run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "venv" / "bin" / "python"
    installed = run(UV, "pip", "install", "--quiet", "--python", python, f"{wheel}[typing]", "mypy", cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return python


class TestTheWheel:
    def test_holds_the_contract_and_its_types_and_nothing_of_the_server(self, wheel):
        """Messages with their types are inside, under the client's own package."""
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()

        assert {name.split("/")[0] for name in names} == {"invochain_client", "invochain_client-0.1.0.dist-info"}
        for room in ("merchant", "inventory", "invoice"):
            assert f"invochain_client/api/{room}/v1/{room}_service_pb2.py" in names
            assert f"invochain_client/api/{room}/v1/{room}_service_pb2.pyi" in names
        assert "invochain_client/py.typed" in names
        assert not [name for name in names if name.endswith(".lock")]

    def test_comes_from_a_source_distribution_that_carries_the_contract(self, wheel):
        """It builds where there is no clone around it: the .proto files are in it."""
        (sdist,) = wheel.parent.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            names = archive.getnames()

        assert "invochain_client-0.1.0/proto/invochain/api/invoice/v1/invoice_service.proto" in names
        assert not [name for name in names if name.endswith("_pb2.py")]

    def test_imports_in_a_clean_environment(self, python, tmp_path):
        """Its dependencies are all it needs."""
        shown = run(python, "-c", "import invochain_client as c; print(c.Client, c.rupees('1.50'))", cwd=tmp_path)

        assert "150" in shown.stdout, shown.stderr

    def test_type_checks_a_program_strictly_and_finds_its_mistakes(self, python, tmp_path):
        """mypy --strict passes the right program, with the arguments of blocking methods known, and no other."""
        (tmp_path / "right.py").write_text(textwrap.dedent(PROGRAM))
        (tmp_path / "wrong.py").write_text(textwrap.dedent(WRONG))
        checked = run(python, "-m", "mypy", "--strict", "right.py", "wrong.py", cwd=tmp_path)

        errors = [text for text in checked.stdout.splitlines() if ": error:" in text]
        assert [text.split(":")[:2] for text in errors] == [["wrong.py", str(number)] for number in (6, 7, 8, 9)], (
            checked.stdout + checked.stderr
        )


class TestTheSource:
    def test_type_checks_strictly(self, tmp_path):
        """The client's own code passes mypy --strict."""
        checked = run(
            sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", tmp_path, cwd=CLIENT
        )

        assert checked.returncode == 0, checked.stdout
