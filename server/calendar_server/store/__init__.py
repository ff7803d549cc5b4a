"""Peewee's door: database, tables, named queries. Rows leave it as plain values, errors as ``StoreError``."""
