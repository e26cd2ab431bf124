"""A package, so that naru can be installed for exactly these tests."""
