"""Runs InvoChain on one machine: PostgreSQL, Valkey, the services, the workers and the gateway, supervised."""
