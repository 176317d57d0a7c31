"""One look for every picture, whatever the user's matplotlib is set up to do.

matplotlib is imported here and in the other files of this room only: import them late.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsegrad.system.atomic import write_whole

INK = "#2b2b33"
FAINT = "#dcdce3"
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def our_style() -> Iterator[None]:
    """Draw by matplotlib's own defaults and `STYLE`.

    The user's settings may ask for a LaTeX or a font that is not there, or for colours on which
    ours cannot be read; they are back afterwards.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a table or a run is the result, its picture is no news
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, whole, without the user's backend.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, dpi=160, format="png")
    write_whole(path, picture.getvalue())
