from tests.integration.chassis.databases import database, empty, events_dsn, events_postgres, pool

__all__ = ["database", "empty", "events_dsn", "events_postgres", "pool"]
