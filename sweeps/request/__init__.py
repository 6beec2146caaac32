"""The request: the plan, its data sets, the cells laid out, their forecast, and whether earlier starts agree."""
