"""Batch scoring: a job of Parquet files, cut into shards, that any process may take up again."""

SHARD_ROWS = 200_000
