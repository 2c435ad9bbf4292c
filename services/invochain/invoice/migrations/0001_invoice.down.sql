-- 0001_invoice: undoes the up; loses every invoice. Only for an empty database.
DROP TABLE restore_epoch;
DROP TABLE number_series;
DROP TABLE audit_entry;
DROP TABLE invoice_item;
DROP TABLE invoice;
DROP TABLE party;
