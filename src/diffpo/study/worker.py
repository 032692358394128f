"""`python -m diffpo.study.worker WORK TASK [ARM SEED]`: one job of a study, in a process of its own."""

import sys
from pathlib import Path

from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.core.output import warn
from diffpo.core.parent import end_with_parent
from diffpo.study.harness import perform_stored


def main() -> None:
    """Do the job and exit with a code of the command line. What is wrong is in the last line of the log."""
    end_with_parent()
    try:
        perform_stored(Path(sys.argv[1]), sys.argv[2:])
    except UserError as error:
        warn(str(error))
        sys.exit(2)
    except NonFiniteLossError as error:
        warn(f"training stopped: {error}")
        sys.exit(1)
    except (Stopped, KeyboardInterrupt):
        sys.exit(130)


if __name__ == "__main__":
    main()
