"""What is seen: one JSON log line per event, and Prometheus metrics under the names operators already use.

Lines carry trace id, merchant and a hash of the key; never a GSTIN, a token or a body. Labels that would grow with
customers (merchant, sku, ip, user) are not used, or bounded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server, values

from invochain.chassis import trace

# One of several processes of a service counts on in the files of whoever had its place before (supervisor/figures.py).
# Said before the first metric is made.
if worker := os.environ.get("INVOCHAIN_WORKER"):
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]

# The promises: creation 500 ms, acceptance 300 ms, p95 25 ms aimed at; the buckets show each.
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5)
STATEMENT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)

# What one figure means when several processes of a service share an endpoint: their sum, the greatest, the least, or
# the newest.
SUM: Any = {"multiprocess_mode": "livesum"}
WORST: Any = {"multiprocess_mode": "livemax"}
LEAST: Any = {"multiprocess_mode": "livemin"}
NEWEST: Any = {"multiprocess_mode": "livemostrecent"}

INVOICE_CREATED = Counter("invoice_created_total", "Invoices asked for, by outcome", ["outcome"])
INVOICE_CREATION_SECONDS = Histogram(
    "invoice_creation_duration_seconds", "CreateInvoice from arrival to answer", buckets=LATENCY_BUCKETS_S
)
INVOICE_ACTION = Counter("invoice_action_total", "Actions on invoices, by outcome", ["action", "outcome"])
RESERVATION_FAILURES = Counter(
    "inventory_reservation_failures_total", "Reservations refused or unanswered, by reason", ["reason"]
)
SAGA_COMPENSATION = Counter("saga_compensation_total", "What the resolver settled, by way", ["way"])
INVENTORY_RESERVE = Counter("inventory_reserve_total", "Reservations asked for, by outcome", ["outcome"])
# Sums over all SKUs: a label per SKU would grow with customers.
STOCK_LEVEL = Gauge("inventory_stock_level", "Stock over all SKUs, thousandths of a unit, sampled", ["kind"], **NEWEST)
LOCK_WAIT_SECONDS = Histogram(
    "inventory_lock_wait_seconds", "Waiting for stock rows to be locked", buckets=STATEMENT_BUCKETS_S
)
RATE_LIMITED = Counter("rate_limit_exceeded_total", "Calls refused by a rate limit", ["scope"])
CIRCUIT_STATE = Gauge("circuit_breaker_state", "0 closed, 1 half open, 2 open", ["target"], **WORST)
CIRCUIT_TRANSITIONS = Counter("circuit_breaker_transitions_total", "Changes of a breaker's state", ["target", "to"])
CIRCUIT_REFUSED = Counter("circuit_breaker_refused_total", "Items not sent because a breaker was open", ["target"])
RETRY_TOKENS = Gauge("retry_budget_tokens", "Tokens left; retries need more than 5 of 10", ["target"], **LEAST)
RETRIES = Counter("retries_total", "Retries of our own, sent or forgone for lack of budget", ["target", "outcome"])
BULKHEAD_IN_FLIGHT = Gauge("bulkhead_in_flight", "Calls in flight of those a bulkhead allows", ["target"], **SUM)
BULKHEAD_REFUSED = Counter("bulkhead_refused_total", "Calls refused because a bulkhead was full", ["target"])
EXPIRED = Counter("work_expired_total", "Work dropped unbegun because its caller's time was over", ["where"])
PG_CONNECTIONS_ACTIVE = Gauge("pg_connections_active", "Connections in use", ["pool"], **SUM)
PG_QUERY_SECONDS = Histogram(
    "pg_query_duration_seconds", "Statements, by their name", ["statement"], buckets=STATEMENT_BUCKETS_S
)
READS = Counter("reads_total", "Reads a replica may answer, by who answered and why", ["served_by", "why"])
REPLICA_LAG_SECONDS = Gauge("replica_lag_seconds", "By how much a replica may be behind, at most", ["replica"], **WORST)
REPLICA_ROTATION = Gauge("replica_in_rotation", "1 where a replica answers reads", ["replica"], **LEAST)
RPC_SECONDS = Histogram("grpc_server_handling_seconds", "Calls, by method", ["method"], buckets=LATENCY_BUCKETS_S)
RPC_TOTAL = Counter("grpc_server_handled_total", "Calls, by method and code", ["method", "code"])
BATCH_ITEMS = Histogram("batch_items", "Items a batch took", ["batch"], buckets=SIZE_BUCKETS)
BATCH_WAITING = Gauge("batch_waiting", "Items that wait for a slot", ["batch"], **SUM)
LEADER = Gauge("worker_leader", "1 where this process leads the loop", ["worker"], **SUM)
WORKER_RUNS = Counter("worker_runs_total", "Rounds of a loop, by outcome", ["worker", "outcome"])
OUTBOX_OLDEST_SECONDS = Gauge(
    "outbox_oldest_unpublished_seconds", "Age of the oldest unpublished event", ["room"], **WORST
)
EVENTS_PUBLISHED = Counter("events_published_total", "Events handed to the broker", ["room"])
EVENTS_CONSUMED = Counter("events_consumed_total", "Events consumed, by consumer and outcome", ["consumer", "outcome"])
REDIS_COMMANDS = Counter("redis_commands_total", "Commands to Redis: ok, late, failed, skipped", ["outcome"])
CACHE_EPOCHS = Counter("outcome_cache_epochs_total", "Changes of the epoch that names the cache's entries")
CACHE = Counter("outcome_cache_total", "Redis outcome cache, by result", ["result"])


def key_hash(key: str) -> str:
    """What a log line shows of an idempotency key: 12 hex digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else ""


def _add_trace(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if here := trace.current.get():
        event.setdefault("trace_id", here.trace_id)
    return event


@dataclass
class Shown:
    """What of the log is written, and as whose."""

    process: str = ""
    # Whether lines of level info are.
    info: bool = True


shown = Shown()


def write(lines: str) -> None:
    """Writes whole lines, already JSON, where the others go."""
    structlog.get_config()["logger_factory"]().msg(lines)


def configure_logging(process: str, level: str = "INFO") -> None:
    """One JSON line per event on standard output; the standard library's loggers go the same way."""
    shown.process, shown.info = process, getattr(logging, level) <= logging.INFO
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_trace,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def log(name: str) -> Any:
    """A logger whose lines carry `room`."""
    return structlog.get_logger().bind(room=name)


def serve_metrics(port: int, registry: CollectorRegistry = REGISTRY) -> int:
    """Starts a /metrics endpoint on 127.0.0.1 and returns its port.

    0 where the process is one of several: their figures lie in files, and whoever started them serves these.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return 0
    server, _thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    return int(server.server_port)
