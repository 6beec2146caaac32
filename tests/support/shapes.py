"""How shapes and types are checked in every test run: jaxtyping's import hook puts this checker on all of audioconfit
(`addopts` in pyproject.toml).
"""

from beartype import BeartypeConf, beartype

# An int is a float wherever Python's own typing says so (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
