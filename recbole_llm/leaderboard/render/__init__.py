"""In: a board as plain data. Out: Markdown, LaTeX, plots and a page."""
