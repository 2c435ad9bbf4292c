"""What every process stands on; it has never heard of an invoice."""
