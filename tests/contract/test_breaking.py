"""The contract may grow, never break: today's protos against the released descriptor, and the checks themselves.

The released descriptor is an image of buf without comments, `proto/released/v1.binpb`. After a release it is made anew:
`buf build --config proto/buf.yaml --exclude-source-info --path proto/invochain -o proto/released/v1.binpb`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "proto" / "released" / "v1.binpb"
INVOICE = Path("proto/invochain/api/invoice/v1/invoice_service.proto")
INVENTORY = Path("proto/invochain/api/inventory/v1/inventory_service.proto")
MERCHANT = Path("proto/invochain/api/merchant/v1/merchant_service.proto")
ERRORS = Path("proto/invochain/api/shared/v1/errors.proto")

# 60 s: a build of all protos takes well under one.
PATIENCE_S = 60


def _buf(*arguments: str | Path, folder: Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    beside = Path(sys.executable).with_name("buf")
    program = str(beside) if beside.exists() else shutil.which("buf")
    assert program, "buf is not installed; run: make setup"
    return subprocess.run(
        [program, *map(str, arguments)], cwd=folder, input=given, capture_output=True, timeout=PATIENCE_S, check=False
    )


def lint(folder: Path) -> str:
    """What the linter says of a folder's contract; empty if nothing."""
    return _buf("lint", "--config", "proto/buf.yaml", folder=folder).stdout.decode()


def breaks(folder: Path) -> str:
    """What a folder's contract breaks of the released one; empty if nothing."""
    image = _buf("build", "--config", "proto/buf.yaml", "--path", "proto/invochain", "-o", "-", folder=folder)
    assert image.returncode == 0, image.stderr.decode()
    found = _buf(
        "breaking", "-", "--config", "proto/buf.yaml", "--against", RELEASED, folder=folder, given=image.stdout
    )
    # 0: nothing broken, 100: something is; anything else is a check that did not run.
    assert found.returncode in (0, 100), found.stderr.decode()
    return found.stdout.decode()


@pytest.fixture(scope="module")
def contract() -> Path:
    """The project's folder, with the Google protos that `make proto` copies there."""
    assert (ROOT / "third_party/googleapis/google/api/annotations.proto").exists(), "run: make proto"
    return ROOT


@pytest.fixture
def changed(contract: Path, tmp_path: Path) -> Callable[[Path, str, str], Path]:
    """A copy of the contract in which a text of a file was replaced."""

    def change(file: Path, old: str, new: str) -> Path:
        shutil.copytree(contract / "proto", tmp_path / "proto")
        (tmp_path / "third_party").symlink_to(contract / "third_party")
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        (tmp_path / file).write_text(text.replace(old, new))
        return tmp_path

    return change


class TestTheContract:
    def test_it_is_lint_clean(self, contract: Path) -> None:
        """buf lint, category STANDARD less the exceptions that buf.yaml gives reasons for, finds nothing."""
        assert lint(contract) == ""

    def test_it_breaks_nothing_that_was_released(self, contract: Path) -> None:
        """Whoever built a client on the released descriptor can go on using it."""
        assert breaks(contract) == ""


class TestTheChecks:
    """Each check is shown to bite: a check that cannot fail proves nothing."""

    @pytest.mark.parametrize(
        ("file", "old", "new", "said"),
        [
            pytest.param(INVOICE, "  string sku = 2;\n", "", 'name "sku"', id="a removed field"),
            pytest.param(
                INVOICE,
                "  string sku = 2;\n",
                "  string article = 2;\n",
                'from "sku" to "article"',
                id="a renamed field",
            ),
            pytest.param(
                INVOICE,
                "  optional int64 gross_paise = 11;",
                "  optional int32 gross_paise = 11;",
                'from "int64" to "int32"',
                id="a narrower type",
            ),
            pytest.param(
                INVOICE,
                "  optional int64 rsp_paise = 25;",
                "  optional int64 rsp_paise = 26;",
                'name "rsp_paise"',
                id="another field number",
            ),
            pytest.param(
                INVENTORY,
                "  int64 on_hand_milli = 5;",
                "  repeated int64 on_hand_milli = 5;",
                "repeated",
                id="one becomes many",
            ),
            pytest.param(
                MERCHANT,
                "  rpc LookupMerchants(LookupMerchantsRequest) returns (LookupMerchantsResponse);\n",
                "",
                "LookupMerchants",
                id="a removed method",
            ),
            pytest.param(ERRORS, "  RATE_LIMITED = 70;\n", "", 'enum value "70"', id="a removed reason"),
            pytest.param(
                INVOICE,
                "returns (ValidateInvoiceResponse)",
                "returns (Invoice)",
                "ValidateInvoice",
                id="another answer",
            ),
        ],
    )
    def test_a_break_is_caught(
        self, changed: Callable[[Path, str, str], Path], file: Path, old: str, new: str, said: str
    ) -> None:
        """Every way to break a client is named by the check."""
        assert said in breaks(changed(file, old, new))

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            pytest.param(
                INVOICE, "message GetInvoiceRequest {", "message GetInvoiceRequest {\n  bool fresh = 2;", id="field"
            ),
            pytest.param(ERRORS, "  RATE_LIMITED = 70;", "  RATE_LIMITED = 70;\n  ONE_MORE = 79;", id="reason"),
            pytest.param(
                MERCHANT,
                "message SignInRequest {",
                "message SignOutRequest {}\n\nmessage SignInRequest {",
                id="message",
            ),
        ],
    )
    def test_growth_is_none(self, changed: Callable[[Path, str, str], Path], file: Path, old: str, new: str) -> None:
        """New fields, reasons and messages break nobody."""
        assert breaks(changed(file, old, new)) == ""

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            pytest.param(
                "  string invoice_id = 1;\n}\n\nenum InvoiceView",
                "  string invoiceId = 1;\n}\n\nenum InvoiceView",
                "lower_snake_case",
                id="field in camelCase",
            ),
            pytest.param(
                "package invochain.api.invoice.v1;", "package invochain.api.invoice;", "PACKAGE", id="package"
            ),
        ],
    )
    def test_the_linter_bites(self, changed: Callable[[Path, str, str], Path], old: str, new: str, said: str) -> None:
        """A name against the conventions is told."""
        assert said.lower() in lint(changed(INVOICE, old, new)).lower()
