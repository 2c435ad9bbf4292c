"""Stock, the holds on it, and its movements: gives each unit away once."""
