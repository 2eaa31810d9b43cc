"""Who wins where, measured on the test split, and the report that shows it."""
