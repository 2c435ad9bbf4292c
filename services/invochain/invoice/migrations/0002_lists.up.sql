-- 0002_lists: safe while the previous release serves. Why: what a buyer opens, accepts or looks for, and every filter of a
-- list by state, number or party, is found by a key however many invoices there are.
-- It waits for writers and they for it while an index is made: beside a table of millions make the indexes beforehand,
-- CREATE INDEX CONCURRENTLY under these names.
-- squawk-ignore-file require-concurrent-index-creation, require-concurrent-index-deletion
SET LOCAL lock_timeout = '2s';

-- One invoice of a buyer: read, accepted, rejected by its id alone.
CREATE INDEX IF NOT EXISTS invoice_by_buyer ON invoice (buyer_merchant_id, invoice_id)
    WHERE buyer_merchant_id IS NOT NULL;
-- Lists in order of time, of one state or of all: seven walks, merged. So the filter costs no index of its own.
CREATE INDEX IF NOT EXISTS invoice_sold_by_state ON invoice (merchant_id, state, create_time, invoice_id);
CREATE INDEX IF NOT EXISTS invoice_bought_by_state ON invoice (buyer_merchant_id, state, create_time, invoice_id)
    WHERE buyer_merchant_id IS NOT NULL;
-- What a seller sold to one customer, and what a buyer bought of one supplier.
CREATE INDEX IF NOT EXISTS invoice_between ON invoice (seller_gstin, buyer_gstin, create_time, invoice_id);
-- A number among what was bought: suppliers' numbers are alike. What was sold is found by invoice_number_once.
CREATE INDEX IF NOT EXISTS invoice_bought_by_number ON invoice (buyer_merchant_id, number_key, create_time, invoice_id)
    WHERE buyer_merchant_id IS NOT NULL;
-- The previous release lists by the indexes above too, only slower.
DROP INDEX invoice_of_seller;
DROP INDEX invoice_of_buyer;
