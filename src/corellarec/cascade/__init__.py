"""Which rows are routed to the LLM, what they get, and whether routing helps at all."""
