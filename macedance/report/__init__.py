"""HTML pages, tables, plots and players: one writer for the demo, protocol, study and data reports."""
