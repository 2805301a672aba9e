"""Face 1: the notebook. Magics, notebook_launcher, and how a run looks in a cell."""
