"""``python -m corellarec`` is the command ``corellarec``."""

from corellarec.cli import main

main()
