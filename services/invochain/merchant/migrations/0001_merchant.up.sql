-- 0001_merchant: safe on an empty database. Why: who a merchant is, who may act for it, and how their sign-ins are kept.
SET LOCAL lock_timeout = '2s';

-- A registered party. Every change grows `version` by one and leaves one outbox row.
CREATE TABLE merchant (
    merchant_id uuid NOT NULL,
    gstin text NOT NULL,
    state text NOT NULL,
    legal_name text NOT NULL,
    -- Empty: none. So are the texts below that may be absent.
    trade_name text NOT NULL,
    address_line1 text NOT NULL,
    address_line2 text NOT NULL,
    address_location text NOT NULL,
    address_pin_code text NOT NULL,
    -- Numbers of TaxpayerType and CompliancePolicy in merchant_service.proto.
    taxpayer_type smallint NOT NULL,
    annual_turnover_paise bigint NOT NULL,
    compliance_policy smallint NOT NULL,
    email text NOT NULL,
    phone text NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT merchant_pkey PRIMARY KEY (merchant_id),
    -- One registration, one merchant: the only keys that do not start with merchant_id are these names of the platform.
    CONSTRAINT merchant_gstin_unique UNIQUE (gstin),
    CONSTRAINT merchant_gstin_has_15_characters CHECK (gstin ~ '^[0-9A-Z]{15}$'),
    CONSTRAINT merchant_state_begins_gstin CHECK (state = left(gstin, 2)),
    CONSTRAINT merchant_pin_code_has_6_digits CHECK (address_pin_code ~ '^[1-9][0-9]{5}$'),
    CONSTRAINT merchant_taxpayer_type_known CHECK (taxpayer_type BETWEEN 0 AND 4),
    CONSTRAINT merchant_compliance_policy_known CHECK (compliance_policy BETWEEN 0 AND 2),
    CONSTRAINT merchant_turnover_in_range CHECK (annual_turnover_paise BETWEEN 0 AND 100000000000000000),
    CONSTRAINT merchant_version_positive CHECK (version >= 1)
);

-- Somebody who signs in. An operator runs the platform and belongs to no merchant.
CREATE TABLE app_user (
    user_id uuid NOT NULL,
    merchant_id uuid,
    email text NOT NULL,
    name text NOT NULL,
    roles text [] NOT NULL,
    -- argon2id with its parameters and salt in it; never the password.
    password_hash text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT app_user_pkey PRIMARY KEY (user_id),
    CONSTRAINT app_user_merchant_exists FOREIGN KEY (merchant_id) REFERENCES merchant (merchant_id),
    CONSTRAINT app_user_email_unique UNIQUE (email),
    CONSTRAINT app_user_email_lower_case CHECK (email = lower(email)),
    CONSTRAINT app_user_has_a_role CHECK (cardinality(roles) > 0),
    CONSTRAINT app_user_roles_known CHECK (
        roles <@ ARRAY['OWNER', 'ISSUER', 'APPROVER', 'STOCK_KEEPER', 'VIEWER', 'OPERATOR']
    ),
    CONSTRAINT app_user_operator_has_no_merchant CHECK ((merchant_id IS NULL) = ('OPERATOR' = ANY (roles))),
    CONSTRAINT app_user_password_is_argon2id CHECK (password_hash LIKE '$argon2id$%')
);
CREATE INDEX app_user_merchant ON app_user (merchant_id);

-- A sign-in and all refresh tokens that followed from it; only the last one is good.
CREATE TABLE refresh_family (
    -- 16 random bytes: who knows one has held a token of the family.
    family_id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- SHA-256 of the secret in the present token.
    secret_hash bytea NOT NULL,
    generation integer NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz NOT NULL,
    -- Set when an exchanged token came a second time.
    end_time timestamptz,
    CONSTRAINT refresh_family_pkey PRIMARY KEY (family_id),
    CONSTRAINT refresh_family_user_exists FOREIGN KEY (user_id) REFERENCES app_user (user_id) ON DELETE CASCADE,
    CONSTRAINT refresh_family_secret_is_sha256 CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT refresh_family_generation_positive CHECK (generation >= 1)
);
CREATE INDEX refresh_family_user ON refresh_family (user_id, create_time);

-- Who has to wait before the next try: an account, or a network address.
CREATE TABLE sign_in_attempt (
    scope text NOT NULL,
    -- SHA-256 of the e-mail or the address: enough to count by.
    subject bytea NOT NULL,
    -- Tries that have not ended in a sign-in, since the last quiet hour.
    failures integer NOT NULL,
    last_time timestamptz NOT NULL,
    blocked_until timestamptz NOT NULL,
    CONSTRAINT sign_in_attempt_pkey PRIMARY KEY (scope, subject),
    CONSTRAINT sign_in_attempt_scope_known CHECK (scope IN ('account', 'address')),
    CONSTRAINT sign_in_attempt_failures_counted CHECK (failures >= 0),
    CONSTRAINT sign_in_attempt_subject_is_sha256 CHECK (octet_length(subject) = 32)
);
CREATE INDEX sign_in_attempt_last_time ON sign_in_attempt (last_time);
