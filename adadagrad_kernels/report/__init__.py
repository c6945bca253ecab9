"""From metrics files to what people look at: curves, figures, a table, a page."""
