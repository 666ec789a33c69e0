"""``secondlook serve``, except that a server which died is missed after a second, not fifteen.

Between two of a hundred crashes nobody wants to wait for a lease to run out.
"""

import sys

from secondlook.cli import main
from secondlook.jobs import runner

if __name__ == "__main__":
    runner.LEASE_S = 1.0
    main(["serve", *sys.argv[1:]])
