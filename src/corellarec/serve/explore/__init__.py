"""Pages to look into the cascade: a user, two opinions on each candidate, and why one was asked."""
