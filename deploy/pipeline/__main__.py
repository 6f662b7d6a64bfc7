"""`python3 deploy/pipeline STAGE`: one stage of the way from a commit to production, or `all` of them."""

import sys

from shipping.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
