"""A second, independent reading of RULES.md in plain Python, and the differential test of the engine against it."""
