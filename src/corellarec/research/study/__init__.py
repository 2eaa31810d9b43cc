"""The paper's experiments as one grid: what is run, what is measured, and the report."""
