DROP TABLE plan_stripe_prices, plans, stripe_customer_links;
