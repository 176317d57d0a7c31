"""Pictures beside a result, which stands without them."""

import logging
import os
import textwrap
import warnings
from collections.abc import Callable

from sparsegrad.cli.messages import NO_PICTURE, complain, words_of

LONGEST = 300
"""Characters of a reason: LaTeX gives a whole log."""


def drawn(draw: Callable[[], None]) -> bool:
    """Draw a picture; return whether it is there. Why it is not is told in a line.

    Parameters
    ----------
    draw : callable
        Imports what it draws with, and writes the file.
    """
    os.environ["MPLBACKEND"] = "agg"  # a notebook's would stop the import; none is needed
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draw()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0] == "matplotlib"
        complain(NO_PICTURE if missing else f"no picture: {words_of(error)}")
    except Exception as error:  # of matplotlib, its settings, fonts, helpers: any
        complain(f"no picture: {textwrap.shorten(words_of(error), LONGEST)}")
    else:
        return True
    return False
