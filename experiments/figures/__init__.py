"""Draw figures: each function takes arrays and returns a `matplotlib.figure.Figure`.

Import these modules lazily, inside functions, because they import matplotlib. No function uses
pyplot, changes a global setting or writes a file; the caller saves with `figure.savefig(path)`.
Figures have 200 dots per inch, so on a page their natural size is half their pixels.
"""
