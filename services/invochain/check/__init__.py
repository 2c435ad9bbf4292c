"""The invariants of PROTOCOL 15 as read-only SQL over the rooms' databases (README.md)."""
