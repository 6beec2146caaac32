"""The report: what a sweep found, as tables and figures for a paper or a colleague, from what it left in its folder."""
