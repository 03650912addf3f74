"""How the annotations of the core are checked while the tests run: shapes by jaxtyping, all other types by beartype."""

from beartype import BeartypeConf, beartype

checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # a whole number may stand for a float, as for type checkers
