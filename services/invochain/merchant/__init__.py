"""Who a merchant is by GST law, who may act for it, and the tokens that say so."""
