"""The terminal: the live table while a sweep runs, the plan before it and the report after it."""
