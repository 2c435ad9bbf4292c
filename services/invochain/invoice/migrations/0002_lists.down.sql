SET LOCAL lock_timeout = '2s';
CREATE INDEX invoice_of_seller ON invoice (merchant_id, create_time, invoice_id);
CREATE INDEX invoice_of_buyer ON invoice (buyer_merchant_id, create_time, invoice_id)
    WHERE buyer_merchant_id IS NOT NULL;
DROP INDEX invoice_bought_by_number;
DROP INDEX invoice_between;
DROP INDEX invoice_bought_by_state;
DROP INDEX invoice_sold_by_state;
DROP INDEX invoice_by_buyer;
