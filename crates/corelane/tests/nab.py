"""What the CSV files given say, as JSON: {source: {sensor: {count, min, max, last, last_timestamp, mean}}}.

Independent of the product: the csv module, datetime and exact sums. `last` is the value of the greatest timestamp.
"""

import csv
import json
import math
import pathlib
import sys
from datetime import datetime, timezone


def nanoseconds(text):
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()) * 10**9


def summary(path):
    points = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            time = nanoseconds(row.pop("timestamp"))
            for sensor, cell in row.items():
                points.setdefault(sensor, []).append((time, float(cell)))
    return {sensor: describe(values) for sensor, values in points.items()}


def describe(points):
    values = [value for _, value in points]
    # Of several rows with the greatest time, the later one counts.
    last_timestamp, _, last = max((time, row, value) for row, (time, value) in enumerate(points))
    return {
        "count": len(values),
        "min": min(values),
        "max": max(values),
        "last": last,
        "last_timestamp": last_timestamp,
        "mean": math.fsum(values) / len(values),
    }


print(json.dumps({pathlib.Path(path).stem: summary(path) for path in sys.argv[1:]}))
