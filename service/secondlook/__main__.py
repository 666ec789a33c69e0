"""``python -m secondlook``: the command line where the script is not on the path."""

from secondlook.cli import main

main()
