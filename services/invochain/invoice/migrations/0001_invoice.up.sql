-- 0001_invoice: safe on an empty database. Why: invoices, their lines, their audit chain, and the parties they name.
SET LOCAL lock_timeout = '2s';

-- The local copy of the merchant directory, kept by merchant.changed events. On a cluster: a reference table.
CREATE TABLE party (
    merchant_id uuid NOT NULL,
    gstin text NOT NULL,
    state text NOT NULL,
    -- PartyType of the contract.
    taxpayer_type smallint NOT NULL,
    annual_turnover_paise bigint NOT NULL,
    -- compliance_policy = REVIEW.
    review boolean NOT NULL,
    -- The party as it is printed on a document: an encoded Party.
    party bytea NOT NULL,
    -- Of the merchant; a lower one never overwrites a higher one.
    version bigint NOT NULL,
    CONSTRAINT party_pkey PRIMARY KEY (merchant_id),
    CONSTRAINT party_gstin_once UNIQUE (gstin),
    CONSTRAINT party_gstin_is_15 CHECK (length(gstin) = 15),
    CONSTRAINT party_turnover_not_negative CHECK (annual_turnover_paise >= 0)
);

-- One row an invoice. Money is whole paise. What can change is state, version, reason, buyer_merchant_id, audit_head
-- and update_time; the rest is as issued.
CREATE TABLE invoice (
    merchant_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    -- After the purge of its decision row the invoice itself is the decision (PROTOCOL R5).
    rid uuid NOT NULL,
    attempt integer NOT NULL,
    fingerprint bytea NOT NULL,
    fp_version smallint NOT NULL,
    number text NOT NULL,
    -- ASCII upper case: what is unique (RULES G13, G14).
    number_key text NOT NULL,
    doc_type text NOT NULL,
    seller_gstin text NOT NULL,
    financial_year text NOT NULL,
    supply_type text NOT NULL,
    invoice_date date NOT NULL,
    -- A GSTIN, URP, or empty for a consumer.
    buyer_gstin text NOT NULL,
    -- Set once that GSTIN is registered here.
    buyer_merchant_id uuid,
    inter_state boolean NOT NULL,
    taxable_paise bigint NOT NULL,
    igst_paise bigint NOT NULL,
    cgst_paise bigint NOT NULL,
    sgst_paise bigint NOT NULL,
    cess_paise bigint NOT NULL,
    state_cess_paise bigint NOT NULL,
    discount_paise bigint NOT NULL,
    other_charges_paise bigint NOT NULL,
    round_off_paise bigint NOT NULL,
    total_paise bigint NOT NULL,
    state text NOT NULL DEFAULT 'ISSUED',
    version bigint NOT NULL DEFAULT 1,
    reason text NOT NULL DEFAULT '',
    -- Whether a hold in the inventory belongs to it: reservation_id = H("res/1", rid, attempt).
    takes_stock boolean NOT NULL,
    compliance_status text NOT NULL,
    -- The Invoice message as issued; answers and reads are this and what has changed since.
    document bytea NOT NULL,
    -- Hash of the newest audit entry: the next one names it.
    audit_head bytea NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT invoice_pkey PRIMARY KEY (merchant_id, invoice_id),
    CONSTRAINT invoice_number_once UNIQUE (merchant_id, seller_gstin, doc_type, financial_year, number_key),
    CONSTRAINT invoice_number_key_is_upper_case CHECK (number_key = upper(number)),
    CONSTRAINT invoice_number_has_1_to_16 CHECK (length(number) BETWEEN 1 AND 16),
    CONSTRAINT invoice_doc_type_known CHECK (doc_type IN ('INV', 'CRN', 'DBN')),
    CONSTRAINT invoice_state_known CHECK (
        state IN ('ISSUED', 'EDIT_REQUESTED', 'ACCEPTED', 'REJECTED', 'CANCELLED', 'PART_PAID', 'PAID')
    ),
    CONSTRAINT invoice_compliance_known CHECK (compliance_status IN ('COMPLIANT', 'UNDER_REVIEW')),
    CONSTRAINT invoice_version_positive CHECK (version >= 1),
    CONSTRAINT invoice_attempt_positive CHECK (attempt >= 1),
    CONSTRAINT invoice_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
    -- RULES G41, G24: the two halves are equal, and never beside integrated tax.
    CONSTRAINT invoice_cgst_equals_sgst CHECK (cgst_paise = sgst_paise),
    CONSTRAINT invoice_one_kind_of_tax CHECK (igst_paise = 0 OR cgst_paise = 0),
    -- RULES G36: document amounts.
    CONSTRAINT invoice_total_in_range CHECK (total_paise BETWEEN 0 AND 9999999999999999),
    CONSTRAINT invoice_taxable_in_range CHECK (taxable_paise BETWEEN 0 AND 9999999999999999)
);
CREATE INDEX invoice_of_seller ON invoice (merchant_id, create_time, invoice_id);
CREATE INDEX invoice_of_buyer ON invoice (buyer_merchant_id, create_time, invoice_id)
    WHERE buyer_merchant_id IS NOT NULL;
-- What waits for its buyer to register.
CREATE INDEX invoice_without_buyer ON invoice (buyer_gstin) WHERE buyer_merchant_id IS NULL AND length(buyer_gstin) = 15;

CREATE TABLE invoice_item (
    merchant_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    line integer NOT NULL,
    -- Upper case; absent: the line takes no stock.
    sku text,
    hsn text NOT NULL,
    unit text NOT NULL,
    is_service boolean NOT NULL,
    quantity_milli bigint,
    unit_price_milli bigint NOT NULL,
    gst_rate_milli integer NOT NULL,
    gross_paise bigint NOT NULL,
    discount_paise bigint NOT NULL,
    taxable_paise bigint NOT NULL,
    igst_paise bigint NOT NULL,
    cgst_paise bigint NOT NULL,
    sgst_paise bigint NOT NULL,
    -- By rate and per unit together.
    cess_paise bigint NOT NULL,
    state_cess_paise bigint NOT NULL,
    total_paise bigint NOT NULL,
    CONSTRAINT invoice_item_pkey PRIMARY KEY (merchant_id, invoice_id, line),
    CONSTRAINT invoice_item_taxable_is_gross_less_discount CHECK (taxable_paise = gross_paise - discount_paise),
    CONSTRAINT invoice_item_cgst_equals_sgst CHECK (cgst_paise = sgst_paise),
    CONSTRAINT invoice_item_one_kind_of_tax CHECK (igst_paise = 0 OR cgst_paise = 0),
    CONSTRAINT invoice_item_service_takes_no_stock CHECK (sku IS NULL OR NOT is_service)
);

-- One entry per change, chained per invoice (PROTOCOL 11 (a)).
CREATE TABLE audit_entry (
    merchant_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    version bigint NOT NULL,
    action text NOT NULL,
    actor_id uuid NOT NULL,
    actor_merchant_id uuid NOT NULL,
    time_micros bigint NOT NULL,
    salt bytea NOT NULL,
    -- What the change wrote; absent for the issue, whose payload is the invoice's document.
    payload bytea,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    mac bytea NOT NULL,
    CONSTRAINT audit_entry_pkey PRIMARY KEY (merchant_id, invoice_id, version),
    CONSTRAINT audit_entry_hashes_are_sha256 CHECK (
        octet_length(previous) = 32 AND octet_length(hash) = 32 AND octet_length(mac) = 32 AND octet_length(salt) = 16
    )
);

-- Counters of server-given numbers. A series owns its prefix (PROTOCOL 3d).
CREATE TABLE number_series (
    merchant_id uuid NOT NULL,
    seller_gstin text NOT NULL,
    doc_type text NOT NULL,
    financial_year text NOT NULL,
    -- For example INV/2627/.
    prefix text NOT NULL,
    -- The last number given.
    last_given bigint NOT NULL DEFAULT 0,
    CONSTRAINT number_series_pkey PRIMARY KEY (merchant_id, seller_gstin, doc_type, financial_year, prefix),
    CONSTRAINT number_series_not_negative CHECK (last_given >= 0)
);

-- Part of every cache key: bumped by a restore, so that the cache of before is never read again (PROTOCOL 7, 12).
CREATE TABLE restore_epoch (
    epoch bigint NOT NULL,
    CONSTRAINT restore_epoch_pkey PRIMARY KEY (epoch)
);
INSERT INTO restore_epoch (epoch) VALUES (1);
