"""``python -m corellarec`` is the command ``corellarec``."""

from corellarec.cli.main import main

main()
