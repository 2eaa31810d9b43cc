"""``python -m corellarec`` is the command ``corellarec``."""

from corellarec.cli.entry import main

main()
