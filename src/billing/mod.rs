//! What finance knows: customers, subscriptions, invoices, payments and what was returned.
