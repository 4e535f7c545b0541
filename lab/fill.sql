-- What a database may hold, and evenkeel.megabytes of rows. Rows of about 1 KB, stored outside of compression.
CREATE EXTENSION IF NOT EXISTS pgcrypto;
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp";
DO $$ BEGIN
    CREATE ROLE reporting NOLOGIN;
    CREATE ROLE staff LOGIN PASSWORD NULL IN ROLE reporting CONNECTION LIMIT 5;
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE SCHEMA IF NOT EXISTS sales;
CREATE SCHEMA IF NOT EXISTS crm AUTHORIZATION reporting;
CREATE SCHEMA IF NOT EXISTS "Audit Trail";
CREATE SEQUENCE IF NOT EXISTS sales.invoice_number START 1000 INCREMENT 10;
SELECT nextval('sales.invoice_number') FROM generate_series(1, 25);
CREATE TYPE crm.state AS ENUM ('new', 'won', 'lost');
CREATE TABLE crm.customers (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name citext NOT NULL COLLATE "en_US.utf8",
    state crm.state DEFAULT 'new',
    more hstore,
    path ltree
);
INSERT INTO crm.customers (name, more, path)
    SELECT 'Customer ' || n, hstore('n', n::text), ('top.c' || n)::ltree FROM generate_series(1, 2000) n;
CREATE INDEX ON crm.customers USING gin (name gin_trgm_ops);
CREATE TABLE sales.lines (id bigint, customer integer, content text);
ALTER TABLE sales.lines ALTER content SET STORAGE EXTERNAL;
INSERT INTO sales.lines
    SELECT n, n % 2000 + 1, repeat(md5(n::text), 30)
    FROM generate_series(1, current_setting('evenkeel.megabytes')::int * 940) n;
ALTER TABLE sales.lines ADD PRIMARY KEY (id);
CREATE TABLE "Audit Trail".entries (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE "Audit Trail".early PARTITION OF "Audit Trail".entries FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
CREATE TABLE "Audit Trail".late PARTITION OF "Audit Trail".entries FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
INSERT INTO "Audit Trail".entries SELECT date '2020-01-01' + n, 'day ' || n FROM generate_series(0, 3000) n;
CREATE MATERIALIZED VIEW sales.totals AS SELECT customer, count(*) FROM sales.lines GROUP BY customer;
GRANT USAGE ON SCHEMA sales TO reporting;
GRANT SELECT ON ALL TABLES IN SCHEMA sales TO reporting WITH GRANT OPTION;
GRANT INSERT (name) ON crm.customers TO staff;
SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 64 * (n % 64 + 1)), 'hex')) FROM generate_series(1, 100) n;
CHECKPOINT;
