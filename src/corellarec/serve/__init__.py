"""The service: a cascade behind HTTP that answers inside a deadline, with the LLM or without it."""
