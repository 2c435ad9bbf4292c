"""What must survive a crash: decisions, outbox, inbox, audit. Every function takes the caller's `tx`."""
