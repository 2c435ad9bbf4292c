"""Issues invoices exactly once and moves them from state to state. Read create_invoice.py first."""
