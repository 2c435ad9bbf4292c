"""What tests stand on: servers, builders, clocks. Imported by tests only."""
