"""The tables of a lowered pattern: what each row holds, and in which place.

`lower` and `pairs` write them, `panels` replays them, `Influence.program` holds them. A table is
one flat array, so that a C program can hold it too. Numba freezes these numbers.
"""

# panels: int64, (panels + 1, PANEL_FIELDS). The last row ends J, the members and the runs.
PANEL_FIELDS = 10
(
    OFFSET,  # of the panel in J
    ROWS,
    VECTORS,  # of 16 columns, that a row takes in scratch
    STRIDE,  # from row to row of J
    FIRST_SEGMENT,
    END_SEGMENT,
    FIRST_ENTRY,
    FIRST_MEMBER,
    FIRST_RUN,
    FIRST_ROW,  # that it writes: above 0 in a later stage of the panel before it, see `panels`
) = range(PANEL_FIELDS)

# segments: int64, (segments, SEGMENT_FIELDS). Pairs of rows with equally long lists.
SEGMENT_FIELDS = 3
PAIRS, SHARED, OWN = range(SEGMENT_FIELDS)  # pairs, shared entries, own entries of each row

# entries: int64, (entries, ENTRY_FIELDS). A source of each row of a pair: its position in D's data,
# and the row of the panel that it stands in.
ENTRY_FIELDS = 2
POSITION = 32  # bits below the position
PLACE = 0xFFFFFFFF  # those of the row

# members: int64, (members + 1, MEMBER_FIELDS). The supernodes of a panel.
MEMBER_FIELDS = 5
FIRST_COLUMN, WIDTH, FIRST_REACHED, COUNT_REACHED, INSET = range(MEMBER_FIELDS)  # inset in the row

# reached: int32, (rows, REACHED_FIELDS). The units that a supernode reaches, sorted.
REACHED_FIELDS = 2
UNIT, PANEL_ROW = range(REACHED_FIELDS)

# runs: int64, (runs, RUN_FIELDS). Where I is added.
RUN_FIELDS = 4
FIRST_VALUE, STEP, TARGET, LENGTH = range(RUN_FIELDS)  # value and step in I's data, target in J
OUTSIDE = -1  # for a first value: set to zero, these weights do not reach the row
