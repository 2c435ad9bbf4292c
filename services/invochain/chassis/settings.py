"""Settings: environment variables INVOCHAIN_*, read once at start, refused whole when one is wrong."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from invochain import core

# T_abort of PROTOCOL 8.
ABORT_AFTER_MS_FLOOR = 30_000


Transport = Literal["grpcio", "tonic"]


class Settings(BaseSettings):
    """One process's settings. Names in the environment: INVOCHAIN_ and the field in upper case."""

    model_config = SettingsConfigDict(env_prefix="INVOCHAIN_", extra="ignore", frozen=True)

    environment: str = Field("development", pattern="^(development|production)$")
    log_level: str = "INFO"

    # PostgreSQL, one database and role a service; `broker` is the embedded event broker's.
    merchant_database_url: str = ""
    inventory_database_url: str = ""
    invoice_database_url: str = ""
    broker_database_url: str = ""
    # Streaming replicas of the invoice database, parted by commas; none: its primary answers every read (PROTOCOL 8).
    invoice_replica_urls: str = ""
    redis_url: str = ""

    # Where the services listen and where their callers find them (host:port).
    merchant_address: str = "127.0.0.1:7001"
    inventory_address: str = "127.0.0.1:7002"
    invoice_address: str = "127.0.0.1:7003"
    gateway_address: str = "127.0.0.1:8080"
    # Prometheus endpoint of this process; 0 = a free port, said in the log.
    metrics_port: int = 0
    # Who does HTTP/2: tonic in the Rust core, or grpcio. The contract is the same (chassis/README.md).
    transport: Transport = "tonic"
    # TLS for whoever calls the services: certificates and key of this process in PEM; with client_ca_file, callers
    # need a certificate of that authority. None: plain text, for one machine or a mesh that encrypts by itself.
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    # How our own processes call the services: over TLS, each with a certificate of this authority for the host or
    # address that it is called by; this process shows tls_cert_file, if it has one. None: plain text.
    tls_ca_file: Path | None = None
    # Share the port with other processes of this service (SO_REUSEPORT); `serve --workers N` sets it for its own.
    reuse_port: bool = False
    # How many processes serve this room; `serve --workers N` says it to its own, so that their pools are added up.
    processes: int = Field(1, ge=1)
    # A process of `serve --workers N` whose event loop has stood still for so long is killed and replaced. Far above
    # what a busy machine takes from a process, below the patience of clients that it would keep waiting.
    hung_after_s: int = Field(15, ge=2, le=3_600)

    # Folder of keys: token signing, service identities, MACs (chassis/secrets.py).
    secrets_dir: Path = Path("var/secrets")

    # Connections of a process: its handlers; of the workers' process, each kind of loop. What is too small for the
    # batches, or more than the database grants, is refused at the start (chassis/pools.py).
    pool_size: int = Field(9, ge=2, le=200)
    background_pool_size: int = Field(3, ge=2, le=50)

    # Group commit: batches in flight a process, items a batch (PROTOCOL 9). One is best where the services share few
    # cores: a second batch meets the same busy rows and makes both smaller (measured: 1,000 against 750 a second).
    batch_slots: int = Field(1, ge=1, le=64)
    # A batch of invoices asks for its holds in one call, so the inventory's limit is the limit here.
    batch_items_max: int = Field(500, ge=1, le=core.HOLDS_MAX)
    # Items that may wait before new ones are refused (BULKHEAD_FULL).
    batch_waiting_max: int = Field(20_000, ge=1)

    # A request that has not decided by then never will: the resolver fences it off (PROTOCOL 5). The life of its task
    # is half of it (PROTOCOL 8), so that one setting lowers both; fault tests do, production does not.
    abort_after_ms: int = Field(30_000, ge=1_000)

    # How long a circuit breaker leaves a failing service alone before it tries again (PROTOCOL 13).
    breaker_open_ms: int = Field(30_000, ge=100)

    # A fault on purpose (chassis/faults.py); never in production.
    fault: str = ""

    # Folder of newer tables of law for the invoice service (invoice/law_tables.py); absent: those built in.
    gst_tables_dir: Path | None = None

    reflection: bool = True

    @property
    def task_life_s(self) -> float:
        """How long a request may live before it must not decide any more."""
        return self.abort_after_ms / 2_000

    @model_validator(mode="after")
    def _safe_in_production(self) -> Settings:
        if self.environment == "production" and self.fault:
            raise ValueError(f"INVOCHAIN_FAULT is {self.fault!r}; production breaks nothing on purpose, unset it")
        if self.environment == "production" and self.abort_after_ms < ABORT_AFTER_MS_FLOOR:
            raise ValueError(
                f"INVOCHAIN_ABORT_AFTER_MS is {self.abort_after_ms}; production wants {ABORT_AFTER_MS_FLOOR} or more"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if bool(self.tls_cert_file) != bool(self.tls_key_file) or (self.tls_client_ca_file and not self.tls_cert_file):
            raise ValueError(
                "TLS wants INVOCHAIN_TLS_CERT_FILE and INVOCHAIN_TLS_KEY_FILE, both or none; "
                "INVOCHAIN_TLS_CLIENT_CA_FILE only with them"
            )
        if self.tls_cert_file and not self.tls_ca_file:
            raise ValueError(
                "INVOCHAIN_TLS_CERT_FILE without INVOCHAIN_TLS_CA_FILE: our own processes could not call the services"
            )
        return self

    def database_url(self, room: str) -> str:
        """The DSN of a room's own database; refuses a missing one by name."""
        url: str = getattr(self, f"{room}_database_url")
        if not url:
            raise SystemExit(f"INVOCHAIN_{room.upper()}_DATABASE_URL is not set; `invochain up` sets it for you")
        return url


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
