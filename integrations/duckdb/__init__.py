"""SQL functions for DuckDB that give the same numbers as the Python API."""

from attnbridge.integrations.duckdb.frames import score as score
from attnbridge.integrations.duckdb.registration import connect as connect
from attnbridge.integrations.duckdb.registration import register as register
