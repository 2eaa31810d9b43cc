"""Parts of the benchmark of the service that run as processes of their own."""
