"""One trial: what a worker is assigned, how it runs, and what it leaves."""
