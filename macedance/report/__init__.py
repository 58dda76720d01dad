"""HTML pages, tables, plots and players."""
