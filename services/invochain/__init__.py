"""InvoChain: issues a GST invoice exactly once, with tax exactly right, taking stock exactly once."""
