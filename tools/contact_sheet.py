"""Draw the README's contact sheet of the synthetic flowers: a row a kind.

python tools/contact_sheet.py docs/synthetic-flowers.jpg
"""

import sys

import numpy as np
from PIL import Image

from horovod_flowers.data import synthetic

COLUMNS, SIZE, SEED = 10, 120, 0


def main() -> None:
    """Write the sheet to the path that is given."""
    kinds = len(synthetic.CLASSES)
    rows = [
        np.hstack([synthetic.draw(SEED, column * kinds + kind, SIZE) for column in range(COLUMNS)])
        for kind in range(kinds)
    ]
    Image.fromarray(np.vstack(rows)).save(sys.argv[1], quality=85)


if __name__ == "__main__":
    main()
