"""Django's cache in the default database: a table for each alias, which the step `migration` creates."""

from django_formula.store.contract import Store


class DatabaseStore(Store):
    """A cache in a table, which needs nothing on the host."""

    KIND = "database"


STORE = DatabaseStore()
