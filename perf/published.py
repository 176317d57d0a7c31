"""Tables that others published, made again with this engine.

    python perf/published.py series --data FOLDER --out OUT     # five series, sketched RTRL 2026
    python perf/published.py markers --data FOLDER --out OUT    # breathing, Pohl 2022, 2025
    python perf/published.py credit --out OUT                   # "temporal credit is free", 2026
    python perf/published.py series --out OUT --print           # the table of what has been run

Runs that are finished stand in OUT, a line of JSON each, and are not run again. FOLDER holds the
data, which are not ours to hand on: an error says which files, of which publication.
"""

import argparse
import sys
from pathlib import Path

from replications import credit, markers, series
from replications.records import Records

TABLES = {"series": series, "markers": markers, "credit": credit}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=[], help="these methods, of credit tasks")
    parser.add_argument("--toy", action="store_true", help="all of it, as small as it can be")
    parser.add_argument("--print", action="store_true", dest="printed", help="run nothing")
    options = parser.parse_args(words)
    chosen, records = TABLES[options.table], Records(options.out / f"{options.table}.jsonl")
    if not options.printed:
        try:
            chosen.run(records, options.data, options.seeds, options.only, options.toy)
        except ValueError as error:
            sys.exit(f"published.py: {error}")
    chosen.table(records)


if __name__ == "__main__":
    main()
